"""One step of many requests: what each puts into it, and what comes out.

Every reply gets its next token. What a step has room for beside them goes to the prompts that are not computed yet; a
reply that asks for it adds guesses.
"""

import logging
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from baichuan2.engine.batch import Batch, Part
from baichuan2.engine.chooser import Choice, choose_greedy_rows
from baichuan2.engine.job import Job
from baichuan2.errors import BaichuanError, GenerationError

__all__ = ["Round"]

logger = logging.getLogger(__name__)
ALONE = 32_768
"""From so many numbers on torch computes with all threads (its GRAIN_SIZE).

For the few here that takes longer than one thread does, and much longer where the other cores have work to do.
"""


class Round:
    """A step, from its plan to its tokens; `preempted` must leave the batch before it is computed."""

    def __init__(self, batch: Batch, running: Sequence[Job]) -> None:
        """Plans the step: `jobs` are in it, those that found no room are `preempted`, the youngest first."""
        self._batch = batch
        self.preempted: list[Job] = []
        self.jobs: list[Job] = []
        self._guesses: dict[Job, list[int]] = {}
        self._logits: dict[Job, Tensor] = {}
        self._greedy: dict[Job, Choice] = {}
        self._parts: list[Part] = []
        wanted = self._shares(running)
        self._room_for_guesses = batch.most_tokens - sum(wanted.values())
        for job in running:
            job.num_passed_over = 0 if job in wanted else job.num_passed_over + 1
        for job in sorted(wanted, key=lambda job: job.number):  # the oldest finds room at the others' cost
            if job not in self.preempted:
                self._add(job, wanted[job], [other for other in running if other.number > job.number])

    def _shares(self, running: Sequence[Job]) -> dict[Job, int]:
        """How many tokens each job computes; those that must wait for another step are left out."""
        replies = [job for job in running if job.num_pending == 1]
        prompts = [job for job in running if job.num_pending > 1]
        most, beside = self._batch.most_tokens, self._batch.tokens_beside(len(replies))
        if not self._batch.is_one_pass:
            shares = dict.fromkeys(replies, 1)
            if prompts:  # each costs a pass: one, of who had the least so far, unless he came before others often
                job = min(prompts, key=lambda job: (_num_held(job) - beside * job.num_passed_over, job.number))
                shares[job] = min(job.num_pending, beside)
            return shares
        # where not all fit into a step, prompts get half of it, and those that have waited the longest come first
        beside = min(beside, sum(job.num_pending for job in prompts))
        num_replies = max(most - beside, most // 2)
        shares = dict.fromkeys(sorted(replies, key=lambda job: -job.num_passed_over)[:num_replies], 1)
        room = min(most - len(shares), beside)
        for job, share in _first_come_and_shortest(prompts, room):
            shares[job] = shares.get(job, 0) + share
        return shares

    def _add(self, job: Job, num_tokens: int, younger: list[Job]) -> None:
        """Puts a job into the step, for which others may have to leave the batch."""
        held = job.held
        assert held is not None
        guesses: list[int] = []
        if self._batch.takes_guesses and job.num_pending == 1 and job.num_new > 0:
            guesses = job.draft(self._room_for_guesses)
            if not self._batch.reserve(held, 1 + len(guesses)):
                guesses = []
            self._room_for_guesses -= len(guesses)
        while not self._batch.reserve(held, num_tokens):
            leaving = [other for other in younger if other not in self.preempted and other not in self.jobs]
            if not leaving:
                self.preempted.append(job)
                return
            youngest = max(leaving, key=lambda other: other.number)
            self.preempted.append(youngest)
            self._release(youngest)
        start = held.num_tokens
        ids = [*job.token_ids[start : start + num_tokens], *guesses]
        is_whole = start + num_tokens == len(job.token_ids)
        self._parts.append(Part(held, ids, 1 + len(guesses) if is_whole else 0))
        self.jobs.append(job)
        self._guesses[job] = guesses

    def _release(self, job: Job) -> None:
        """Takes a job's room at once, as another needs it for this very step."""
        assert job.held is not None
        self._batch.close(job.held, job.token_ids)
        job.held = None

    @torch.inference_mode()
    def compute(self) -> None:
        """Computes the step."""
        if not self._parts:
            return
        logits = self._batch.step(self._parts)
        plain: list[Job] = []
        for job, part, rows in zip(self.jobs, self._parts, logits, strict=True):
            if part.num_wanted:
                self._logits[job] = rows
                if part.num_wanted == 1 and _is_plain(job, rows.device):
                    plain.append(job)
        is_here = bool(logits) and logits[0].device.type == "cpu"
        at_once = max(1, (ALONE - 1) // logits[0].shape[-1]) if is_here else len(plain) or 1
        for start in range(0, len(plain), at_once):
            jobs = plain[start : start + at_once]
            rows = torch.cat([self._logits[job] for job in jobs]).float()
            self._greedy.update(zip(jobs, choose_greedy_rows(rows), strict=True))

    @torch.inference_mode()
    def choose(self, job: Job) -> int:
        """Chooses and delivers the next tokens of a job, if its part ends where its text ends; how many they are."""
        logits = self._logits.get(job)
        if logits is None or job.is_cancelled or job.is_done:
            return 0
        before = job.num_new
        try:
            if job in self._greedy:
                job.take(job.chooser(logits.device).took(self._greedy[job]))
            else:
                self._choose_rows(job, logits)
        except BaichuanError as error:
            job.fail(error)
        except Exception as error:
            logger.exception("a choice failed")
            job.fail(GenerationError(f"choosing a token failed: {type(error).__name__}: {error}"))
        return job.num_new - before

    def _choose_rows(self, job: Job, logits: Tensor) -> None:
        """Chooses behind each right guess; wrong ones leave the cache."""
        guesses = self._guesses[job]
        assert job.held is not None
        for row in range(len(logits)):
            choice = job.chooser(logits.device).choose(logits[row].float())
            job.take(choice)
            if job.is_done or job.is_cancelled or row == len(guesses) or choice.token_id != guesses[row]:
                break
        surplus = job.held.num_tokens - (len(job.token_ids) - 1)
        if surplus > 0:
            self._batch.crop(job.held, job.held.num_tokens - surplus)


def _first_come_and_shortest(prompts: Sequence[Job], room: int) -> Iterator[tuple[Job, int]]:
    """Who computes how many tokens of `room`: half of it goes to whoever came first, the rest to the shortest prompts.

    Prompts one after the other are done sooner, on average, than prompts side by side; nobody waits for a long one, and
    a long one for short ones half of the time at most.
    """
    if not prompts or room <= 0:
        return
    first = min(prompts, key=lambda job: job.number)
    taken = min(first.num_pending, -(-room // 2))
    yield first, taken
    room -= taken
    for job in sorted(prompts, key=lambda job: job.num_pending):
        share = min(job.num_pending - (taken if job is first else 0), room)
        if share > 0:
            yield job, share
            room -= share


def _num_held(job: Job) -> int:
    return len(job.token_ids) - job.num_pending


def _is_plain(job: Job, device: torch.device) -> bool:
    """Whether the job's token may be chosen with others'; one that cannot choose finds that out alone, in `choose`."""
    try:
        return job.chooser(device).is_plain
    except Exception:
        return False
