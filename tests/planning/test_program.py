"""A compiled program's text: what runs, how often, and what hides a collective."""

# ruff: noqa: E501 - the text of a compiler
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from belle_jax import config, sharding
from belle_jax.planning import chips
from belle_jax.planning.estimate import estimate, group
from belle_jax.planning.program import CompiledProgram, arrays, cycles, loop_collectives, size

# As the TPU compiler writes: a loop of seven turns in one of three; a collective that is started,
# one that nothing hides, one that is spread over fusions, and a kernel whose metadata has lines.
TEXT = """HloModule jit_step, is_scheduled=true

%fused (a: bf16[8,128]) -> bf16[8,128] {
  ROOT %a = bf16[8,128]{1,0} parameter(0)
}

%scatter (a: bf16[1024,128]) -> bf16[64,128] {
  %r = bf16[1024,128]{1,0} all-reduce(%a), channel_id=9, replica_groups={{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}
}

%inner_cond (p: (u32[])) -> pred[] {
  %c = u32[]{:T(128)} constant(7)
  ROOT %lt = pred[]{:T(512)} compare(%g, %c), direction=LT
}

%inner_body (p: (u32[])) -> (u32[]) {
  %f1 = bf16[8,128]{1,0:T(8,128)(2,1)} fusion(%p), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"1000"}
  ROOT %t1 = (u32[]) tuple(%p)
}

%outer_cond (p: (s32[])) -> pred[] {
  %c3 = s32[]{:T(128)} constant(3)
  ROOT %lt3 = pred[] compare(%g, %c3), direction=LT
}

%outer_body (p: (s32[])) -> (s32[]) {
  %start = (bf16[64,128]{1,0}, bf16[1024,128]{1,0}) all-gather-start(%p), channel_id=1, replica_groups=mesh['x'=16,'y'=2] {'x'}
  %w = (u32[]) while(%p), condition=%inner_cond, body=%inner_body
  %done = bf16[1024,128]{1,0} all-gather-done(%start)
  %bare = bf16[512,128]{1,0} all-gather(%p), channel_id=2, replica_groups=[2,16]<=[32]
  %fs = bf16[64,128]{1,0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter.1, backend_config={}
  ROOT %t = (s32[]) tuple(%p)
}

%all-reduce-scatter.1 (a: bf16[1024,128]) -> bf16[64,128] {
  %r2 = bf16[1024,128]{1,0} all-reduce(%a), channel_id=9, replica_groups={{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15}}
}

ENTRY %main (p0: s32[]) -> s32[] {
  %k = (f32[4]{0}, bf16[4,32,2048,128]{3,2,1,0}) custom-call(%p0), custom_call_target="tpu_custom_call", operand_layout_constraints={bf16[4,32,2048,128]{3,2,1,0}, bf16[4,32,2048,128]{3,2,1,0}}, frontend_attributes={kernel_metadata={
"x":"{}"
}}, backend_config={}
  %outer = (s32[]) while(%p0), condition=%outer_cond, body=%outer_body, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %f2 = s32[] fusion(%outer), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"500"}
}
"""


def test_cycles_are_counted_as_often_as_they_run():
    program = CompiledProgram(TEXT)
    assert program.entry == 'main'
    assert cycles(program) == 3 * 7 * 1000 + 500
    assert sorted(i.name for i in loop_collectives(program)) == ['bare', 'r2', 'start']


def test_shapes_have_their_bytes():
    assert (
        size('(bf16[8,128]{1,0:T(8,128)(2,1)}, f32[]{:T(128)}, pred[4], s4[6])') == 2048 + 4 + 4 + 3
    )
    assert [*arrays('u32[3]{0}, f8e4m3fn[2,2]')] == [('u32', (3,)), ('f8e4m3fn', (2, 2))]
    groups = {step.instruction.name: step.instruction for step in CompiledProgram(TEXT).schedule}
    assert group(groups['start']) == [*range(0, 32, 2)]
    assert group(groups['bare']) == [*range(16)]
    turned = groups['bare']._replace(rest='replica_groups=[16,2]<=[2,4,4]T(1,2,0), dimensions={0}')
    assert group(turned) == [0, 16]


def test_what_leaves_a_slice_is_told_apart():
    """Of 32 devices in two slices the all-gather along x has both, the other one alone."""
    chip = chips.Chip('', 1e12, 1e9, 1e11, 1e6, 1e6, 1e5)
    found = estimate(CompiledProgram(TEXT), chip, [n // 16 for n in range(32)])
    beyond = {(c.kind, c.shape): c.beyond for c in found.collectives}
    # Eight devices of a slice get what eight of the other have: each sends a sixteenth.
    assert beyond == {
        ('all-gather', 'bf16[1024,128]'): pytest.approx(1024 * 128 * 2 / 16),
        ('all-gather', 'bf16[512,128]'): 0,
        ('reduce-scatter', 'bf16[1024,128]'): 0,
    }
    assert found.beyond == pytest.approx(3 * 1024 * 128 * 2 / 16)
    assert found.slow == pytest.approx(found.beyond / 1e5)


def test_transfers_between_tpu_slices_take_the_slow_link_in_turn():
    chip = chips.Chip('', 1e12, 1e9, 1e11, 1e6, 1e6, 1e5)
    words = '_xla_host_transfer_rendezvous="{0}",_xla_megascale_target="{{1,2}}x{{0:3}}",'
    words += '_xla_megascale_transfer_type="ALL_REDUCE"'
    lines = [f'%s{n} = (f32[100], u32[], token[]) send(%a), {words.format(n)}' for n in (1, 2)]
    lines += [f'%r{n} = (f32[100], u32[], token[]) recv(%a), {words.format(n)}' for n in (1, 2)]
    lines.append('%f = f32[1] fusion(%a), backend_config={"estimated_cycles":"5000"}')
    lines += [f'%d{n} = (f32[100], token[]) recv-done(%r{n})' for n in (1, 2)]
    body = '\n'.join(f'  {line}' for line in lines)
    found = estimate(CompiledProgram('ENTRY %main (a: f32[]) -> f32[] {\n' + body + '\n}'), chip)
    assert found.beyond == found.sent == 2 * 400 and found.slow == 0.008
    assert found.waits == pytest.approx(0.008 - 0.005)


def test_what_runs_meanwhile_hides_a_collective():
    chip = chips.Chip('', 1e12, 1e9, 1e11, 1e6, 1e6, 1e5)  # 1 MHz: 1,000 cycles are a millisecond
    found = estimate(CompiledProgram(TEXT), chip)
    assert found.fusions == pytest.approx(0.0215)
    by_kind = {(c.kind, c.shape): c for c in found.collectives}
    started = by_kind['all-gather', 'bf16[1024,128]']
    assert started.times == 3 and started.sent == 1024 * 128 * 2 * 15 / 16
    assert started.hidden == pytest.approx(0.007)
    assert by_kind['all-gather', 'bf16[512,128]'].hidden == 0
    scattered = by_kind['reduce-scatter', 'bf16[1024,128]']
    assert scattered.sent == 1024 * 128 * 2 * 15 / 16
    assert found.links == pytest.approx(3 * (2 * 0.24576 + 0.12288))
    assert found.waits == pytest.approx(found.links - 3 * 0.007)
    # A kernel that is not attention: its bytes at the memory's bandwidth.
    moved = 3 * 4 * 32 * 2048 * 128 * 2 + 16
    assert found.kernels == pytest.approx(moved / 1e11)


def test_a_program_of_this_machine_is_read_too():
    mesh = sharding.make_mesh(config.Mesh(1, 8, 1))
    with jax.set_mesh(mesh):
        where = sharding.named(mesh, ('embed',))
        x = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=where)
        w = jax.ShapeDtypeStruct((64, 64), jnp.float32, sharding=where)

        def step(x, w):
            return jax.lax.fori_loop(0, 5, lambda _, x: jnp.tanh(x @ w), x)

        compiled = jax.jit(step, out_shardings=where).lower(x, w).compile()
    program = CompiledProgram(str(compiled.as_text()))
    times = [s.times for s in program.schedule if s.looped]
    assert times and set(times) == {5}
    assert any(s.instruction.collective == 'all-gather' for s in program.schedule)
    assert np.isfinite(estimate(program, chips.CHIPS['v5e']).links)
