"""The one table of what the person can do: its key, its word in the bottom line, its lines in palette and help.  Step
12.

It does not know how anything is done.
"""

from __future__ import annotations

from dataclasses import dataclass

from textual.binding import Binding


@dataclass(frozen=True, slots=True)
class Command:
    """One thing that a key does.  `action` is the app's; `title` stands in the palette; `about` says what it is good
    for."""

    action: str
    key: str
    word: str
    title: str
    about: str
    display: str | None = None  # of the key, where its name is not what is on it

    def binding(self) -> Binding:
        return Binding(self.key, self.action, self.word, key_display=self.display)


COMMANDS = (
    Command("talk", "space", "talk", "Begin or end talking", "with push-to-talk: begins what you say, then ends it"),
    Command("cancel", "x", "stop", "Stop the answer", "stop the answer; escape does so, too"),
    Command("reconnect", "r", "reconnect", "Connect anew", "connect anew after a lost connection"),
    Command("push_to_talk", "p", "push-to-talk", "Push-to-talk or hands-free", "space ends a turn, or a pause does"),
    Command("mute", "m", "mute", "Mute or unmute the microphone", "send silence instead of the microphone"),
    Command("converse", "a", "answers", "Answers on or off", "converse, or only write down what is said"),
    Command("type", "i", "type", "Type instead of speaking", "type instead of speaking"),
    Command("devices", "d", "microphone", "Choose a microphone", "choose a microphone by what it hears"),
    Command("save", "s", "save", "Save the conversation", "save as text, Markdown, JSON or subtitles"),
    Command("copy", "y", "copy", "Copy the conversation", "copy the conversation to the clipboard"),
    Command("wipe", "c", "clear", "Clear the screen", "clear the screen; the server keeps its context"),
    Command("toggle_theme", "t", "theme", "Dark or light", "the other palette"),
    Command("help", "question_mark", "help", "Help", "what the keys do, what the numbers mean", "?"),
    Command("quit", "q", "quit", "Quit", "leave; the daemon goes on"),
)
