"""In which script a text is written, and when a Chinese row may hold another language."""

import re
from typing import NamedTuple

HAN = re.compile('[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]')
WORD = re.compile("[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ'’-]+")
SMALL = re.compile("\\b[a-zà-ÿ][A-Za-zÀ-ɏ'’-]+")  # words that are not names
KANA = re.compile('[\u3041-\u30ff]')
ELSE = re.compile(  # Greek, Cyrillic, Hebrew, Arabic, Indic scripts, Thai, Hangul
    '[\u0370-\u06ff\u0900-\u0eff\u1100-\u11ff\uac00-\ud7a3]'
)
NOT_PROSE = re.compile(
    r'```.*?(?:```|\Z)|`[^`\n]+`|https?://\S+|\$\$.+?\$\$|\$[^$\n]+\$|\\\(.+?\\\)|<[^<>\n]{1,200}>',
    re.S,
)
# So many words without a capital make a sentence; others are names, labels ("Positive"), terms.
SENTENCE = 5
QUOTED = 3  # that many in the instruction: a phrase of that language is what it is about
CODE_LINE = re.compile(
    r'\s*(?:[{}\[\]();,]+|(?:def|class|if|elif|else|for|while|with|try|except|switch|case)\b.*[:{(]|'
    r'(?:import|using|package|#include)\s+[\w.<">]+.{0,30}|from\s+[\w.]+\s+import\b.*|'
    r'(?:var|let|const|int|float|double|char|bool|string|public|private|static|void)\s+\w+.*[;={(].*|'
    r'return\b\s*\S{0,40}|(?:sudo|git|pip|npm|cd|docker)\s+\S.*|'
    r'(?:SELECT|INSERT|UPDATE|DELETE|CREATE|WHERE|FROM|GROUP BY|ORDER BY|JOIN|VALUES)\b.*|'
    r'.*[;{}]|</?\w+.*>|.*\w\(.*\):?|.*(?:[!=]=|&&|\|\||->|=>|:=).*|[\w.\[\]]+\s*=\s*\S.*|"[^"]+"\s*:.*)\s*'
)
# Instructions to which another language belongs. One word of these is enough: a row that is
# kept wrongly costs less than all translations.
TRANSLATION = (
    '语种|哪种语言|什么语言|哪国语言|方言|翻译|译成|译为|译出|英译|汉译|中译|互译|译文|英文|英语|外语|外文|双语|母语|日文|日语|韩文|韩语|法文|法语|德文|德语|'
    '西班牙语|俄文|俄语|葡萄牙语|意大利语|阿拉伯语|拉丁文|拉丁语|希腊语|越南语|泰语|世界语|translat|english'
)
LEARNING = (
    '语法|拼写|时态|语态|主谓|单词|词汇|词性|词形|词根|词缀|发音|音标|音节|同义词|反义词|完形填空|首字母|字母|缩写|回文|'
    '冠词|介词|名词|动词|形容词|副词|从句|单数|复数|比较级|被动|大写|小写|大小写|雅思|托福|四级|六级|拼音|俳句|例句|造句'
)
CODE = (
    '代码|编程|编码|编写.{0,12}(?:程序|函数|脚本|算法|查询|语句|类|方法)|程序|函数|脚本|算法|语句|正则|表达式|命令|终端|'
    '接口|数据库|数据表|网页|前端|后端|变量|数组|链表|排序|配置|日志|注释|编译|调试|报错|伪代码|快捷键|简历|'
    r'python|java|sql|html|css|php|ruby|golang|rust|swift|kotlin|matlab|scala|perl|bash|shell|linux|'
    r'json|xml|yaml|csv|markdown|latex|excel|api|regex|docker|git|mermaid|graphviz|fen|c\+\+|c#|\.net|'
    r'(?<![a-z])r语言|(?<![a-z])c语言'
)
BELONGS = re.compile(f'{TRANSLATION}|{LEARNING}|{CODE}', re.I)


class Scripts(NamedTuple):
    """How much of a text's prose is in which script."""

    han: int  # characters
    words: int  # of two or more Latin letters
    kana: int  # characters
    others: int  # letters of other scripts

    @property
    def chinese(self) -> float:
        """The share of Chinese; 0.5 for a text without any script (numbers, a formula)."""
        total = self.han + self.words + self.kana + self.others
        return self.han / total if total else 0.5


def scripts(text: str) -> Scripts:
    """Counts a text's prose, without code, formulas, tags and addresses.

    Args:
        text: Any text.
    Returns:
        The counts.
    """
    if '`' in text or '$' in text or '<' in text or '://' in text or '\\(' in text:
        text = NOT_PROSE.sub(' ', text)
    han = len(HAN.findall(text))
    if text.isascii():
        return Scripts(0, len(WORD.findall(text)), 0, 0)
    return Scripts(han, len(WORD.findall(text)), len(KANA.findall(text)), len(ELSE.findall(text)))


def is_code(text: str) -> bool:
    """Whether at least half of a text's lines look like a program, a query, mark-up or data."""
    if '```' in text:
        return True
    lines = [line for line in text.splitlines() if line.strip()]
    like = sum(1 for line in lines if not HAN.search(line) and CODE_LINE.fullmatch(line))
    return like > 0 and like * 2 >= len(lines)


def is_foreign(text: str) -> bool:
    """Whether a text is prose of another language than Chinese, of a sentence or more."""
    found = scripts(text)
    if found.kana >= 8 and found.kana * 4 > found.han:
        return True
    if found.others >= 12 and found.others > found.han:
        return True
    if found.words < SENTENCE or found.chinese >= 0.3 or is_code(text):
        return False
    return len(SMALL.findall(NOT_PROSE.sub(' ', text))) >= SENTENCE


def foreign_field(instruction: str, fields: tuple[str, ...]) -> bool:
    """Whether a Chinese instruction has foreign input or answer, where none belongs.

    It belongs to translating, to learning languages and to code: the instruction says so.

    Args:
        instruction: What is asked.
        fields: Input and answers.
    Returns:
        True for a row that the cleaning of BELLE's 1M set took out.
    """
    if scripts(instruction).chinese < 0.5 or BELONGS.search(instruction):
        return False
    if len(SMALL.findall(instruction)) >= QUOTED:
        return False
    return any(is_foreign(text) for text in fields)
