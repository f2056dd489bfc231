"""Chat templates of strangers, rendered by a process of its own that has little memory and time.

A template is a program: four nested loops, `9**9**9` or `indent(10**9)` in one never end, or fill
the memory, and no list of what is allowed is complete. So Jinja's sandbox, which reaches nothing of
Python's, runs in a child that may take `MEMORY`, `SECONDS` of a processor for each rendering, and
write no file; what it answers is bounded as well. A template that went beyond is not asked again.
"""

import atexit
import datetime
import functools
import json
import math
import os
import resource
import select
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

# The longest published templates take 5 ms and 60 MB, most of which is Python.
SECONDS = 5
PATIENCE = 60  # seconds of the clock, in which even a busy machine finds five for the child
MEMORY = 1 << 29  # bytes of address space
LONGEST = 1 << 24  # characters of an answer: four times the largest row
STANDING = datetime.datetime(2024, 7, 26)
"""What a template takes for today: another date would give other tokens tomorrow."""


class TemplateRefused(ValueError):
    """The template refuses these values, by `raise_exception` or because it is not valid."""


class Renderer:
    """Asks the child; there is one for this process, which begins with the first template."""

    def __init__(self) -> None:
        self._lock, self._child = threading.Lock(), None
        self._pid = 0
        self._beyond: set[str] = set()

    def render(self, source: str, values: dict[str, Any], paddle: bool = False) -> str:
        """What a template writes.

        Args:
            source: Jinja's.
            values: Its variables, as JSON has them.
            paddle: Whether a line break at the end of the source is kept, as PaddleNLP does.
        Raises:
            TemplateRefused: it refuses them.
            ValueError: it goes wrong, or beyond its time, its memory or the longest answer.
        """
        request = json.dumps([source, values, paddle]).encode() + b'\n'
        with self._lock:
            answer = None if source in self._beyond else self._ask(request)
            if answer is None:
                self._beyond.add(source)
                self.close()
                raise ValueError(
                    f'it takes more than {SECONDS} s, {MEMORY >> 20} MB or {LONGEST:,} characters'
                )
        kind, text = json.loads(answer)
        if kind:
            raise TemplateRefused(text) if kind == 'Refused' else ValueError(f'{kind}: {text}')
        return text

    def _ask(self, request: bytes) -> bytes | None:
        """The child's line; None if it died or is not done in time."""
        if self._child is None or self._pid != os.getpid():  # a fork would share its pipes
            self._child = subprocess.Popen(
                [sys.executable, '-P', str(Path(__file__).resolve()), str(SECONDS)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
            self._pid = os.getpid()
        stdin, stdout = self._child.stdin, self._child.stdout
        assert stdin and stdout
        answer = b''
        try:
            while request:
                request = request[stdin.write(request) or 0 :]
            while not answer.endswith(b'\n'):
                ready, _, _ = select.select([stdout], [], [], PATIENCE)
                block = stdout.read(1 << 20) if ready else b''
                if not block:
                    return None
                answer += block
        except BrokenPipeError:
            return None
        return answer

    def close(self) -> None:
        """Ends the child, if this process began it."""
        if self._child is not None and self._pid == os.getpid():
            self._child.kill()
            self._child.communicate()
        self._child = None


RENDERER = Renderer()
atexit.register(RENDERER.close)


# --- the child ------------------------------------------------------------------------------------


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which some templates put around what is learnt from.

    Its content is shown between the variables `generation_begin` and `generation_end`.
    """

    tags = {'generation'}  # noqa: RUF012 - the name and type are Jinja's

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
        begin, end = (
            jinja2.nodes.Output([jinja2.nodes.Name(f'generation_{edge}', 'load')])
            for edge in ('begin', 'end')
        )
        return [begin, *body, end]


def _environment(paddle: bool) -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=paddle,
        extensions=[] if paddle else [_Generation, 'jinja2.ext.loopcontrols'],
    )
    if not paddle:
        environment.filters['tojson'] = _to_json
        environment.globals['raise_exception'] = _refuse
        environment.globals['strftime_now'] = STANDING.strftime
    return environment


def _to_json(value: Any, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def serve(seconds: int) -> None:
    """Answers each line [source, values, paddle] with a line [kind of error or '', text]."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    compiled = functools.lru_cache(16)(lambda source, kind: _environment(kind).from_string(source))
    for line in sys.stdin:
        source, values, paddle = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        until = math.ceil(used.ru_utime + used.ru_stime) + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (until, resource.RLIM_INFINITY))
        try:
            text = compiled(source, paddle).render(values)
            if len(text) > LONGEST:
                return
            answer = ['', text]
        except MemoryError:
            return
        except jinja2.TemplateError as error:
            answer = ['Refused', str(error)]
        except Exception as error:  # a stranger's program can go wrong in every way
            answer = [type(error).__name__, (str(error).strip() or 'no reason given')[:1000]]
        print(json.dumps(answer), flush=True)


if __name__ == '__main__':
    serve(int(sys.argv[1]))
