"""What lm-evaluation-harness asks of a model: likelihoods, whole texts, answers.

Texts are tokenised and cut as the harness does for transformers, so that the same weights get the
same scores; conversations are written by our templates, so that a model reads the tokens that it
was trained on.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from belle_jax.progress import Progress

if TYPE_CHECKING:
    from belle_jax.data.records import Message
    from belle_jax.decoding import Engine, Sampling

SEQ_LEN = 2048  # of a model without an end, as the harness has it
NEW_TOKENS = 256  # of an answer whose task sets no number, as the harness has it
LIMITS = ('max_gen_toks', 'max_new_tokens', 'max_tokens', 'max_completion_tokens')
Pair = tuple[list[int], list[int]]


class HarnessModel:
    """What the harness asks of a model. Weights are loaded with the first request."""

    def __init__(
        self,
        model: str,
        *,
        template: str = '',
        system: str | None = None,
        seq_len: int | None = None,
        dtype: str = 'float32',
        batch_size: int = 8,
        devices: int = 1,
        adapter: str = '',
    ):
        """Takes what the harness is to ask.

        Args:
            model: As in `harness.evaluate`.
            template: Of conversations; '': the model's own.
            system: Message of that role; None: the run's.
            seq_len: Tokens that are read at most; None: the model's context.
            dtype: Of weights and activations.
            batch_size: Texts at a time.
            devices: That share each weight.
            adapter: Of the model, as in `belle_jax.load`.
        Raises:
            ValueError: the model has no tokenizer, or reads fewer tokens than `seq_len`.
        """
        super().__init__()
        from belle_jax import families
        from belle_jax.decoding import assistant
        from belle_jax.runs.load import read_architecture

        self._path, self._batch_size = model, batch_size
        self._placed = {'dtype': dtype, 'devices': devices, 'adapter': adapter}
        self._voice = assistant.voice(model, template, system)
        self._architecture = read_architecture(model)
        limit = families.of(self._architecture).context_limit(self._architecture)
        self.max_length = seq_len or limit or SEQ_LEN
        if limit and self.max_length > limit:
            raise ValueError(
                f'--seq_len={seq_len} is more than the {limit} tokens that the model reads: set '
                f'--seq_len={limit}.'
            )
        # What was written by the template, by the text that the harness holds for it.
        self._conversations: dict[str, tuple[list[Message], str]] = {}

    @property
    def tokenizer_name(self) -> str:
        """Which the harness keeps requests by: what they are made of."""
        return f'{self._path}__{self._voice.template.name}'.replace('/', '__')

    def chat_template(self, chat_template: bool | str = False) -> str:
        """What conversations are written by."""
        return self._voice.template.name if chat_template else ''

    def get_model_info(self) -> dict[str, Any]:
        """What the results say of the model."""
        told = {'model_source': self._path, 'model_step': self._voice.step}
        told |= {f'model_{name}': value for name, value in self._placed.items()}
        return told | {
            'model_family': self._architecture.family,
            'template': self._voice.template.name,
            'max_length': self.max_length,
        }

    def apply_chat_template(
        self, chat_history: list['Message'], add_generation_prompt: bool = True
    ) -> str:
        """A conversation as text; the tokens are made when it comes back in a request.

        Args:
            chat_history: Turns.
            add_generation_prompt: Whether they end with a question; otherwise with the beginning
                of the answer.
        """
        turns, begun = list(chat_history), ''
        if not add_generation_prompt:
            begun = turns.pop()['content']
        turns = self._voice.conversation(turns)
        template = self._voice.template
        contents = [piece.content for piece in template.pieces(turns)]
        token = template.tokenizer.token
        text = ''.join(token(c) if isinstance(c, int) else c for c in contents) + begun
        self._conversations[text] = turns, begun
        return text

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[Any]:
        """For each (context, continuation) its log-probability, and whether it is greedy."""
        pairs = self._pairs([request.args for request in requests])
        return [tuple(found) for found in self._likelihoods(pairs)]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """The log-probability of whole texts, in windows that each foretell other tokens."""
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        windows, owners = [], []
        for number, tokens in enumerate(self._encode([request.args[0] for request in requests])):
            cut = get_rolling_token_windows(tokens, self._prefix, self.max_length, 1)
            windows += map(make_disjoint_window, cut)
            owners += [number] * (len(windows) - len(owners))
        totals = [0.0] * len(requests)
        for number, found in zip(owners, self._likelihoods(windows), strict=True):
            totals[number] += found.total
        return totals

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Answers, each up to the first of its stop strings."""
        from belle_jax.decoding.batch import group_by_length

        tokenizer = self._voice.tokenizer
        asked = [sampling(request.args[1]) for request in requests]
        prompts = []
        texts = [request.args[0] for request in requests]
        for tokens, one in zip(self._contexts(texts), asked, strict=True):
            room = self.max_length - one.max_new_tokens
            if room < 1:
                raise ValueError(
                    f'a task asks for answers of {one.max_new_tokens} tokens, and with its '
                    f'question the model reads at most {self.max_length}: leave the task out.'
                )
            prompts.append(tokens[-room:])
        end = tokenizer.token(tokenizer.eos_id)
        answers, done = [''] * len(prompts), 0
        progress = Progress('answering', 'questions', len(prompts))
        for group in group_by_length([len(p) for p in prompts], self._batch_size):
            settings = [asked[i] for i in group]
            made = self._engine.generate([prompts[i] for i in group], settings, rows=group)
            for i, answer, one in zip(group, made, settings, strict=True):
                # Decoded without the prompt, as the harness does: an answer's first space may go.
                answers[i] = tokenizer.decode(answer.tokens)
                for stop in (*one.stop, end):
                    answers[i] = answers[i].split(stop)[0]
            done += len(group)
            progress.show(done)
        progress.end(done)
        return answers

    @functools.cached_property
    def _engine(self) -> 'Engine':
        from belle_jax.decoding import assistant

        return assistant.engine(
            self._path, self._voice, batch_size=self._batch_size, **self._placed
        )

    @property
    def _prefix(self) -> int:
        """The token before a text that has nothing before it."""
        tokenizer = self._voice.tokenizer
        return tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id

    def _likelihoods(self, pairs: Sequence[Pair]) -> list[Any]:
        """Scores, after contexts are cut from the left to what the model reads."""
        from flax import nnx

        from belle_jax.decoding import scoring

        cut = []
        for context, continuation in pairs:
            room = self.max_length + 1 - len(continuation)
            if room < 1:
                raise ValueError(
                    f'a text of {len(continuation)} tokens is to be scored as a whole, and the '
                    f'model reads at most {self.max_length}: leave its task out.'
                )
            cut.append((context[-room:], continuation))
        model = nnx.merge(self._engine.graphdef, self._engine.params)
        return scoring.likelihoods(model, cut, batch_size=self._batch_size)

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids with BOS where the tokenizer begins so, but not twice."""
        from belle_jax.data import marked_text

        tokenizer = self._voice.tokenizer
        ids = [tokens.tolist() for tokens in marked_text.encode_batch(tokenizer, texts)]
        if tokenizer.adds_bos and tokenizer.bos_id is not None:
            bos = tokenizer.token(tokenizer.bos_id)
            return [t[text.startswith(bos) :] for t, text in zip(ids, texts, strict=True)]
        return ids

    def _contexts(self, texts: Sequence[str]) -> list[list[int]]:
        """What answers go on from."""
        plain = [text for text in dict.fromkeys(texts) if text not in self._conversations]
        ids = dict(zip(plain, self._encode(plain), strict=True))
        ids |= {text: self._said(text) for text in set(texts) - set(plain)}
        return [ids[text] or [self._prefix] for text in texts]

    def _pairs(self, asked: Sequence[tuple[str, str]]) -> list[Pair]:
        """Contexts and continuations, which are what a whole text has more than its context.

        Where that is nothing, because one token spans the seam (人|们), the harness's own backend
        gives up; here the continuation is then tokenised on its own.
        """
        plain = [_begun_anew(*pair) for pair in asked if pair[0] not in self._conversations]
        texts = list(dict.fromkeys(text for c, more in plain for text in (c, c + more)))
        ids = dict(zip(texts, self._encode(texts), strict=True))
        pairs = []
        for context, continuation in asked:
            if context in self._conversations:
                before = self._said(context)
                whole = self._said(context, continuation)
            else:
                context, continuation = _begun_anew(context, continuation)
                before, whole = ids[context], ids[context + continuation]
                if not context:  # what stands before it is the prefix, once
                    whole = [self._prefix] * (whole[:1] != [self._prefix]) + whole
                    before = whole[:1]
            more = whole[len(before) :] or self._voice.tokenizer.encode(
                continuation, continued=True
            )
            pairs.append((before, more))
        return pairs

    def _said(self, text: str, continuation: str = '') -> list[int]:
        """The tokens of a conversation, to the end of what is said of its answer.

        Args:
            text: From `apply_chat_template`.
            continuation: What the answer has more.
        """
        turns, begun = self._conversations[text]
        template = self._voice.template
        prompt = template.prompt(turns)
        if not (answer := begun + continuation):
            return prompt
        tokens = template.encode([*turns, {'role': 'assistant', 'content': answer}])[0]
        return tokens[: tokens.index(template.tokenizer.eos_id, len(prompt))]


def _begun_anew(context: str, continuation: str) -> tuple[str, str]:
    """The same text, with the spaces at the end of the context at the beginning of what follows:
    there most tokenizers have them."""
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation


def sampling(asked: dict[str, Any]) -> 'Sampling':
    """How an answer is made, from a task's `generation_kwargs`.

    Raises:
        ValueError: it has a setting that decoding does not know.
    """
    from belle_jax.decoding import Sampling

    asked = dict(asked)
    until, drawn = asked.pop('until', None) or [], asked.pop('do_sample', None)
    limits = [asked.pop(name, None) for name in LIMITS]
    heat = float(asked.pop('temperature', 1.0 if drawn else 0.0))
    known = {field.name for field in dataclasses.fields(Sampling)} - {'stop'}
    if unknown := asked.keys() - known:
        raise ValueError(
            f"a task's generation_kwargs have {', '.join(sorted(unknown))}, which decoding does "
            f'not know: it knows until, do_sample, {", ".join(sorted(known | {*LIMITS}))}.'
        )
    return Sampling(
        **asked,
        max_new_tokens=next((int(n) for n in limits if n is not None), NEW_TOKENS),
        temperature=heat if drawn is not False else 0.0,
        stop=tuple(filter(None, [until] if isinstance(until, str) else until)),
    )
