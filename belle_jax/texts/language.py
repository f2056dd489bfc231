"""What a text is written in, and how its writer speaks of itself.

In which script it is, and when a Chinese row may hold another language; whether it calls itself a
model, or declines for want of ability.
"""

import re
from typing import NamedTuple

from belle_jax.texts.filters import Said

# --- scripts --------------------------------------------------------------------------------------

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
    """Counts a text's prose, without code, formulas, tags and addresses."""
    if '`' in text or '$' in text or '<' in text or '://' in text or '\\(' in text:
        text = NOT_PROSE.sub(' ', text)
    words = len(WORD.findall(text))
    if text.isascii():
        return Scripts(0, words, 0, 0)
    return Scripts(len(HAN.findall(text)), words, len(KANA.findall(text)), len(ELSE.findall(text)))


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

    It belongs to translating, to learning languages and to code: the instruction says so. The
    cleaning of BELLE's 1M set took such rows out.
    """
    if scripts(instruction).chinese < 0.5 or BELONGS.search(instruction):
        return False
    if len(SMALL.findall(instruction)) >= QUOTED:
        return False
    return any(is_foreign(text) for text in fields)


# --- the writer -----------------------------------------------------------------------------------

_COMPANY = (
    'OpenAI|百度|文心一言|阿里|达摩院|通义千问|腾讯|混元|讯飞|星火|字节|豆包|华为|盘古|智谱|清言|'
    'ChatGLM|复旦|MOSS|百川|月之暗面|Kimi|深度求索|DeepSeek|MiniMax|商汤|微软|Microsoft|Copilot|谷歌|'
    'Google|Bard|Gemini|Meta|LLaMA|Anthropic|Claude|Mistral|Qwen|ERNIE'
)
_AI = r'(?:AI|A\.I\.|人工智能|大型?语言|语言|对话|聊天|智能|机器学习)'
_MODEL = r'(?:模型|助手|助理|机器人|程序|系统|chatbot|(?:language )?model|assistant)'
# A company's assistants and systems may be people and departments; its AI assistants are not.
_PRODUCT = rf'(?:{_AI}\s*{_MODEL}|大?模型|chatbot|language model)'
_NAMES = 'ChatGPT|GPT|文心一言|通义千问|讯飞星火|Claude|Kimi|豆包'
_ONLY = '(?:只|仅仅?|就|其实|毕竟)*'
_A = '(?:一[个名款种位])?'
SELF = re.compile(
    # "作为一个人工智能语言模型，我…": in the first person, or it is about somebody else.
    rf'(?:作为|身为)(?:一[个名款种位]|您的|你的)?[^，。！？\n]{{0,20}}?'
    rf'(?:(?:{_AI}|GPT)[^，。！？\n]{{0,10}}?{_MODEL}|AI|人工智能|GPT)'
    r'[，,、\s]{0,2}(?:我(?!们)|本(?:模型|助手|AI))|'
    rf'(?:我|本模型|本人){_ONLY}[是叫]{_A}[^，。！？\n我]{{0,16}}?(?:GPT|{_COMPANY})'
    rf'[^，。！？\n]{{0,16}}?{_PRODUCT}|'
    rf'(?:我|本模型){_ONLY}[是叫](?:{_NAMES})|'
    rf'(?:我|本模型){_ONLY}是{_A}(?:{_AI}){{1,3}}{_MODEL}|'
    rf'(?:我|本模型)是?由(?:{_COMPANY})[^，。！？\n]{{0,10}}(?:训练|开发|研发|创造|创建|推出)|'
    r'\bas an? (?:large |AI |artificial intelligence )+(?:language )?(?:model|assistant)?,? I\b|'
    r"\bI(?: am|'m|’m) (?:only |just )?(?:an? )?(?:AI|GPT|ChatGPT|large language|language)[ -]"
    r'(?:language )?(?:model|assistant)',
    re.I,
)
BRAND = re.compile(rf'GPT|{_COMPANY}', re.I)
ROLE = re.compile(
    '扮演|假设你是|假如你是|假装|想象你是|你现在是|作为一[个名位]|角色|机器人|小说|故事|剧本|台词|role'
)

_CANNOT = '无法|不能够?|没有?办法|没法'
_SERVE = (
    '回答|解答|提供|完成|协助|帮助|帮[你您]|访问|判断|确定|生成|执行|满足|处理|给出|理解|获取|预测|'
    '查看|打开|浏览|识别|分析|评价|评论|创建|输出|实现|直接|为[你您]|(?:按照|根据)[你您提]|对[此这您该]|'
    '确认|翻译|知道|了解|看到|听到|进行'
)
REFUSAL = re.compile(
    rf'\A\W*(?:(?:很|非常|十分|实在)?(?:对不起|抱歉|不好意思|遗憾)[^。！!\n]{{0,40}}?'
    rf'(?:我|本模型|本助手|作为)[^。！!\n]{{0,24}}?(?:{_CANNOT})[^。！!\n]{{0,8}}?(?:{_SERVE})|'
    rf'(?:作为|身为)[^。！!\n]{{0,24}}?(?:{_AI}|GPT)[^。！!\n]{{0,20}}?(?:{_CANNOT})|'
    rf'我(?:{_CANNOT})(?:回答|提供|完成|协助|访问|生成|执行|满足|处理|给出)|'
    r"(?:I(?: am|'m|’m) |We(?: are|'re) )?(?:so |very |really )?sorry,?"
    r"[^.\n]{0,40}?\bI(?: am|'m|’m)? ?"
    r"(?:can(?:no|')?t|can’t|cannot|not able|unable|won't|do not|don't)|"
    r"I (?:cannot|can't|can’t|am unable to|'m unable to) "
    r'(?:help|assist|provide|fulfil|comply|answer)|'
    r'As an? (?:AI|artificial|large)[^.\n]{0,60}?(?:cannot|can(?:no|\')t|unable|not able|do not))',
    re.I,
)
# Declining what does harm is a right answer, and the category `harmless` is made of it.
HARM = re.compile(
    '违法|非法|犯罪|违反(?:法律|法规|道德)|法律|不道德|道德|伦理|伤害|危害|有害|危险|暴力|仇恨|歧视|偏见|色情|毒品|自杀|自残|武器|'
    '炸|诈骗|欺诈|欺骗|盗|黑客|攻击|侵犯|隐私|骚扰|霸凌|恐怖|谣言|作弊|造假|伪造|未成年|侮辱|illegal|harm|unethical|danger'
)
# What is written for somebody else may apologise and ask for things.
LETTER = re.compile(
    '信|邮件|短信|微信|留言|消息|回复|请假|道歉|致歉|婉拒|谢绝|客服|台词|对话|扮演|模拟|话术|脚本'
)


def is_refusal(text: str, question: str = '') -> bool:
    """Whether an answer declines for want of ability; declining harm is an answer.

    Args:
        text: An answer, or a whole reply.
        question: What was asked, as far as known.
    Returns:
        True for "对不起，作为AI，我无法…"; False for "对不起，这是违法的，我不能…", and for a
        letter of apology that somebody asked for.
    """
    return bool(REFUSAL.search(text[:200])) and not (HARM.search(text) or LETTER.search(question))


def calls_itself_a_model(texts: Said) -> bool:
    """Whether an answer says that an AI model wrote it.

    So do "作为一个语言模型，我…" and "我是由百度训练的…"; a robot in a play may say that it is one,
    unless it is a company's.
    """
    role = any(ROLE.search(question) for question in texts.questions)
    return any(
        not role or BRAND.search(match[0])
        for answer in texts.answers
        for match in SELF.finditer(answer)
    )
