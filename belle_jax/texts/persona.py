"""How an answer speaks of its writer: calling itself a model, declining for want of ability."""

import re

from belle_jax.texts.filters import Said

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
    if REFUSAL.search(text[:200]) is None or HARM.search(text):
        return False
    return not LETTER.search(question)


def calls_itself_a_model(texts: Said) -> bool:
    """Whether an answer says that an AI model wrote it.

    Args:
        texts: A row's.
    Returns:
        True for "作为一个语言模型，我…" and "我是由百度训练的…"; a robot in a play may say that it
        is one, unless it is a company's.
    """
    role = any(ROLE.search(question) for question in texts.questions)
    return any(
        not role or BRAND.search(match[0])
        for answer in texts.answers
        for match in SELF.finditer(answer)
    )
