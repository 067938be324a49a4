"""Decides when everything that a clip held has been answered.  Beside steps 2 and 12.

A microphone has no end, so the protocol has none either: the client must know by itself that no more words will come.
Pure; it counts utterances, answers and samples, and never looks at a clock.
"""

from __future__ import annotations

from msgspec import UNSET

from shared.audio import to_samples
from shared.events import (
    Committed,
    Metrics,
    ResponseDone,
    ServerEvent,
    SessionCreated,
    SessionUpdated,
    SpeechStarted,
    SpeechStopped,
    TranscriptionCompleted,
    TranscriptionFailed,
)
from shared.latency import VoicedTruth
from shared.session_config import AnySession, RealtimeSession


class Ending:
    """Follows one session until it is over.  `samples`: length of the clip; None: it never ends by itself, or is not
    yet known."""

    def __init__(self, samples: int | None, truth: VoicedTruth | None) -> None:
        self._truth = truth
        self._samples: int | None = None
        self._last_voiced: int | None = None
        if samples is not None:
            self.ends(samples)
        self._transcripts = self._answers = self._reports = False
        self._open: set[str] = set()  # utterances whose text is not final
        self._unreported: set[str] = set()  # utterances and answers whose metrics are still to come
        self._commit: str | None = None  # the item that a commit of ours made
        self._stopped = ""  # the item that the server ended last
        self._commit_expected = self._commit_done = False
        self._unanswered = 0
        self._heard = 0  # up to this sample, speech belongs to an utterance that has ended
        self._sent = 0

    @property
    def played(self) -> bool:
        """Whether the whole clip is on its way."""
        return self._samples is not None and self._sent >= self._samples

    @property
    def busy(self) -> bool:
        """Whether something that was begun is not finished."""
        return bool(self._open) or self._unanswered > 0 or self.committing

    @property
    def committing(self) -> bool:
        """Whether a commit still has no answer."""
        return self._commit_expected and not self._commit_done

    @property
    def over(self) -> bool:
        """Whether every voiced sample belongs to a turn that is finished and reported.

        Where the clip holds sound that is no speech this never comes true; then it is over when nothing has happened
        for a while, which is for the caller to watch."""
        accounted = self._commit_done or self._last_voiced is None or self._heard >= self._last_voiced
        return self.played and accounted and not self.busy and not self._unreported

    def ends(self, samples: int) -> None:
        """Told the length of the clip, once that is known."""
        self._samples = samples
        self._last_voiced = self._truth.last_voiced(0, samples) if self._truth is not None else samples

    def sent(self, position: int) -> None:
        """Told how many samples have been sent."""
        self._sent = position

    def expect_commit(self) -> None:
        """Told that the client commits what is not yet a turn; when that item is finished, everything is."""
        self._commit_expected = True

    def nothing_to_commit(self) -> None:
        """Told that the server had nothing to commit: everything was heard."""
        self._commit_done = True

    def relinked(self, *, fresh: bool) -> None:
        """Told of another link, over which reports that were lost do not come again.  `fresh`: another session, which
        knows nothing of this one's utterances; their sound is being heard anew."""
        self._unreported.clear()
        if fresh:
            self._open.clear()
            self._commit, self._stopped, self._unanswered = None, "", 0

    def receive(self, event: ServerEvent) -> None:
        match event:
            case SessionCreated(session=session) | SessionUpdated(session=session):
                self._configured(session)
            case SpeechStarted(item_id=key):
                self._open.add(key)
            case SpeechStopped(item_id=key, audio_end_ms=end):
                self._heard = max(self._heard, to_samples(end))
                self._unanswered += self._answers
                self._stopped = key
                if not self._transcripts:
                    self._open.discard(key)
            case Committed(item_id=key) if self._commit_expected and key != self._stopped:
                self._commit = key
                self._open.add(key)
            case TranscriptionCompleted(item_id=key, transcript=text):
                self._close(key)
                if self._reports and text.strip():
                    self._unreported.add(key)
            case TranscriptionFailed(item_id=key):
                self._close(key)
            case ResponseDone(response=response):
                self._unanswered = max(0, self._unanswered - 1)
                if self._reports and response.status in ("completed", "incomplete"):
                    self._unreported.add(response.id)
            case Metrics(item_id=key, response_id=answer):
                self._unreported.discard(key if answer is UNSET else answer)
            case _:
                pass

    def _close(self, key: str) -> None:
        self._open.discard(key)
        self._commit_done = self._commit_done or key == self._commit

    def _configured(self, session: AnySession) -> None:
        sound = session.audio.input
        self._transcripts = sound.transcription is not None
        turns = sound.turn_detection
        self._answers = isinstance(session, RealtimeSession) and turns is not None and turns.create_response
        self._answers = self._answers and session.voxd.respond is not None
        self._reports = session.voxd.metrics
