"""The flags of all actions."""

from absl import flags

MODEL = flags.DEFINE_string(
    'model', '', "Run directory, checkpoint, Hugging Face directory, hub name, or a server's model."
)
ADAPTER = flags.DEFINE_string(
    'adapter', '', "An adapter of --model, PEFT's or a run's, which is not merged into it."
)
OUTPUT = flags.DEFINE_string(
    'output', '', 'Directory of the evaluation; of perplexity, contamination and harness a file.'
)
QUESTIONS = flags.DEFINE_string(
    'questions',
    '',
    "File of question, std_answer and class, as BELLE's; by default our own. safety: our own that "
    'ask for harm, and those that only look so.',
)
PROMPTS = flags.DEFINE_string(
    'prompts', '', "File of the judge's prompts by class, as BELLE's; by default our own."
)
LANGUAGE = flags.DEFINE_enum('language', 'zh', ['zh', 'en'], 'Of our own prompts.')
MODEL_URL = flags.DEFINE_string(
    'model_url', '', 'Server that has --model; without it --model is one of ours.'
)
ANSWERS = flags.DEFINE_string('answers', '', "File of another program's answers, in place of both.")
JUDGE = flags.DEFINE_string('judge', '', 'Model that scores, of the server of --base_url.')
JUDGINGS = flags.DEFINE_integer('judgings', 1, 'Of each answer.', lower_bound=1)
JUDGE_TOKENS = flags.DEFINE_integer(
    'judge_tokens', 1024, 'Longest reply of the judge, in tokens.', lower_bound=16
)
AGAINST = flags.DEFINE_string(
    'against', '', 'Evaluation, or file of answers, to compare with answer by answer.'
)
OTHERS = flags.DEFINE_list(
    'others',
    [],
    'Evaluations to show beside this one: DIRECTORY or NAME=DIRECTORY. Where names are numbers, '
    'such as 0.2M=…, scores are drawn over them.',
)
NAME = flags.DEFINE_string('name', '', 'Of this one beside --others; by default the directory.')
PERSON = flags.DEFINE_string(
    'person', '', "File of a person's scores, {id, score}, to hold the judge's against."
)
TRAIN = flags.DEFINE_list('train', [], 'Files of training data that may hold the questions.')

TEMPLATE = flags.DEFINE_string('template', '', "Of conversations; by default the model's own.")
SYSTEM = flags.DEFINE_string('system', None, "System message (default: the run's).")
TEMPERATURE = flags.DEFINE_float(
    'temperature', 0.0, 'Of answers; 0: the likeliest token each time.', lower_bound=0
)
MAX_NEW_TOKENS = flags.DEFINE_integer('max_new_tokens', 1024, 'Longest answer.', lower_bound=1)
SEED = flags.DEFINE_integer('seed', 0, 'Decides the draws.')
DTYPE = flags.DEFINE_enum(
    'dtype', 'float32', ['float32', 'bfloat16'], 'Of weights and activations.'
)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 8, 'Rows at a time.', lower_bound=1)
DEVICES = flags.DEFINE_integer('devices', 1, 'Split each weight over that many devices.')
HOST = flags.DEFINE_string('host', '127.0.0.1', 'Of the page: who may reach it.')
PORT = flags.DEFINE_integer('port', 0, 'Likewise; 0: one that is free.')

TEXT = flags.DEFINE_list('text', [], 'wikitext2, ptb, c4, or files.')
SEQ_LEN = flags.DEFINE_integer(
    'seq_len', None, "Tokens of a window (default 2048, or the model's context if that is less)."
)
STRIDE = flags.DEFINE_integer('stride', 0, 'Tokens between two windows; 0: side by side.')

flags.DEFINE_list('tasks', [], 'Names of the harness, patterns such as cmmlu_*, or task files.')
flags.DEFINE_string('include_path', '', 'Folder of further task files.')
flags.DEFINE_integer('num_fewshot', None, "Examples before each question; by default the task's.")
flags.DEFINE_float('limit', None, 'Questions of each task, or below 1 a share; by default all.')
flags.DEFINE_boolean('apply_chat_template', False, 'Whether each question is a conversation.')
flags.DEFINE_boolean('log_samples', False, 'Whether --output holds every question and answer.')
