"""The arithmetic in worked answers, against equations that were calculated by others."""

import json
import random
import re
from pathlib import Path

import pytest

from belle_jax.texts.arithmetic import equations, wrong_equations


@pytest.mark.parametrize(
    'text',
    [
        '3×4=12',
        '一共有：3×4+5=17（本）',
        '3元×4=12元',
        '糖果数 = 4 × 8 + 4 = 36',
        '原式=（3+5）×2\n=8×2\n=16',
        '16 + 20 + 12 + 18 + 25 = 91 元',
        '50 - 91 = -41',
        '１２÷４＝３',
        '17÷5=3……2',
        '17÷5=3（组）……2（个）',
        '5 ÷ 3 = 1余2',
        '20÷80=25%',
        '100×(1-20%)=80',
        '0.25×100=25%',
        '10÷3=3.33',
        '10÷3≈3',
        '487+312≈800',
        '1/2+1/3=5/6',
        '1又1/2+1/2=2',
        '3÷1/2=6',
        '3²+4²=25',
        '3.14×5²=78.5（平方厘米）',
        '2^10=1024',
        '$\\frac{1}{2} + \\frac{1}{3} = \\frac{5}{6}$',
        '1,200+300=1,500',
        '3万元×2=6万元',
        '60千米/小时 × 2小时 = 120千米',
        '3x4=12',
        '3×4=**12**',
        '2(3+4)=14',
    ],
)
def test_right_equations_are_judged_right(text: str) -> None:
    judged = [right for _, right in equations(text)]
    assert judged and all(judged)


@pytest.mark.parametrize(
    ('text', 'wrong'),
    [
        ('3×4=13', ['3*4=13']),
        ('一共有：3×4+5=18（本）', ['3*4+5=18本']),
        ('原式=(3+5)×2\n=8×2\n=17', ['8*2=17']),
        ('先算 5+3=9，再算 9×2=18。', ['先算 5+3=9']),
        ('17÷5=3……1', ['17÷5=3余1']),
        ('25÷4=7', ['25÷4=7']),
        ('7×1.1=7.8', ['7*1.1=7.8']),
        ('100×(1-20%)=85', ['100*(1-20%)=85']),
        ('\\frac{1}{2}+\\frac{1}{3}=\\frac{2}{5}', ['(1)/(2)+(1)/(3)=(2)/(5)']),
        ('12+5=18（个）', ['12+5=18个']),
        ('1. 36 ÷ (45 - 9) = 1.5', ['36 ÷ (45 - 9)=1.5']),
        ('487+312≈900', ['487+312≈900']),
    ],
)
def test_wrong_equations_are_named(text: str, wrong: list[str]) -> None:
    assert wrong_equations(text) == wrong


@pytest.mark.parametrize(
    'text',
    [
        '2x+3=7',
        '设有 x 只鸡，则 2x + 4(35-x) = 94',
        '单价×3=12',
        '3×单价4=13',
        '1小时=60分钟',
        '2小时15分=135分',
        '3米+20厘米=320厘米',
        '4 × 750 = 3升',
        '2:3=4:6',
        '8 + 10 = ?',
        '9:25 + 0:40 = 10:05',
        '2瓶牛奶的价格=2×3',
        '25÷4=6（组），余1组',
        '50÷8=7（条），因为至少要装下所有的人',
        '小华答对 3 道，得分 = 得数',
        'a = b == c',
        '没有等号',
        '1' * 400 + '+1=2',
        '(' * 500 + '1+1=2',
        '3/0=0',
        '2^999999999=0',
    ],
)
def test_what_is_not_surely_arithmetic_is_not_judged(text: str) -> None:
    assert wrong_equations(text) == []


def test_the_numbers_of_a_list_are_no_factors() -> None:
    assert wrong_equations('1. 3×4=12\n2. 5×2=10\n(3)6×2=12\n4.7×3=21') == []


def _calculations(path: Path) -> list[str]:
    """GSM8K's own, which its authors wrote between << and >>."""
    rows = [json.loads(line) for line in path.read_text('utf-8').splitlines()]
    return [found for row in rows for found in re.findall(r'<<([^<>]+)>>', row['answer'])]


def test_gsm8ks_calculations_are_right_and_with_another_result_wrong(shared: Path) -> None:
    calculations = _calculations(shared / 'data/instructions/gsm8k_test.jsonl')
    assert len(calculations) > 4000
    judged = [list(equations(each)) for each in calculations]
    assert sum(map(bool, judged)) > 0.97 * len(calculations)
    assert all(right for found in judged for _, right in found)
    rng = random.Random(0)
    changed = [
        f'{left}={int(result) + rng.choice((-10, -2, -1, 1, 2, 10))}'
        for left, _, result in (each.rpartition('=') for each in calculations)
        if result.isdigit() and re.fullmatch(r'[\d.()+*/ -]+', left)
    ]
    assert len(changed) > 3900
    assert sum(map(bool, map(wrong_equations, changed))) > 0.97 * len(changed)


def test_of_1000_real_chinese_answers_those_with_wrong_arithmetic_are_found(shared: Path) -> None:
    text = (shared / 'data/belle/dev1K.json').read_text('utf-8')
    rows = [json.loads(line) for line in text.splitlines()]
    found = [list(equations(row['output'])) for row in rows]
    assert sum(map(len, found)) > 1000
    wrong = [row for row, each in zip(rows, found) if not all(right for _, right in each)]
    # Read one by one: six are plainly wrong, the others quote something (9:25, 3÷5=0余2).
    assert len(wrong) <= 10
    assert any('4*1.6 + 4*2.67' in ''.join(wrong_equations(row['output'])) for row in wrong)
