"""What the doctor's facts mean: each becomes `ok`, or one thing to do about it.

Not in the path.  Pure: facts in, findings out.  It does not know how a fact is gathered, nor how a finding is shown.
"""

from __future__ import annotations

import re
from dataclasses import replace

from shared import __version__
from shared.report import Finding, Mark
from voxtui.doctor.facts import Forward, Knock, LinkCheck, Machine, Screen, Status, Token, Voxd, Way, Words

PROMPT_SSHD = (10, 1)  # the first OpenSSH server that sends small messages at once under `ssh -N`
INSTALL = {
    "apt-get": "sudo apt install libportaudio2",
    "dnf": "sudo dnf install portaudio",
    "pacman": "sudo pacman -S portaudio",
    "zypper": "sudo zypper install libportaudio2",
    "apk": "sudo apk add portaudio",
    "brew": "brew install portaudio",
}
UNMUTE = {
    "wpctl": "Unmute it: wpctl set-mute @DEFAULT_AUDIO_SOURCE@ 0, or with a switch on the device.",
    "pactl": "Unmute it: pactl set-source-mute @DEFAULT_SOURCE@ 0, or with a switch on the device.",
}


def _finding(name: str, mark: Mark, detail: str, *remedy: str) -> Finding:
    return Finding(name, mark, detail, tuple(line for line in remedy if line))


# ── this machine ────────────────────────────────────────────────────────────────────────────────────────────────────


def machine_findings(machine: Machine) -> list[Finding]:
    sound = [_portaudio(machine), _microphone(machine)]
    if machine.login:
        # What is missing here need not be mended here: the person's microphone is elsewhere.
        sound = [replace(each, mark="skipped", remedy=()) if each.mark == "bad" else each for each in sound]
    places = [_login(machine)] if machine.login else []
    places += [_wsl(machine, heard=sound[-1].mark == "ok")] if machine.wsl else []
    return [*places, *sound, _screen(machine.screen)]


def _login(machine: Machine) -> Finding:
    words = machine.login.split()
    host = words[2] if len(words) == 4 else "this-host"
    port = words[3] if len(words) == 4 else "22"
    own = (
        f"{machine.user}@{host}"
        if port == "22" and ":" not in host
        else f"ssh://{machine.user}@{_bracketed(host)}:{port}"
    )
    return _finding(
        "login",
        "warn",
        "over SSH: a microphone here is this machine's, not yours",
        f"On your own machine: voxtui {own} (or the name that you give to ssh)."
        if machine.here
        else "Run voxtui on your own machine.",
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _wsl(machine: Machine, *, heard: bool) -> Finding:
    if heard or machine.pulse:
        return _finding("WSL", "ok", "its sound comes from Windows")
    return _finding(
        "WSL",
        "bad",
        "no sound comes from Windows: WSLg's sound server is not there",
        "In PowerShell: wsl --update, then wsl --shutdown (it takes WSL 2 on Windows 11, or on Windows 10 22H2).",
    )


def _portaudio(machine: Machine) -> Finding:
    sound = machine.sound
    if sound is None:
        return _finding("PortAudio", "skipped", "not checked: the sound system does not answer")
    if sound.missing == "package":
        return _finding("PortAudio", "bad", "the Python package sounddevice is missing", "pip install sounddevice")
    if sound.missing == "library":
        how = INSTALL.get(machine.installer, "Install PortAudio with the package manager of this system.")
        return _finding("PortAudio", "bad", "the library that reads microphones is missing", how)
    return _finding("PortAudio", "ok", sound.version)


def _microphone(machine: Machine) -> Finding:
    sound = machine.sound
    if sound is None:
        how = "" if machine.system == "darwin" else "Restart it: systemctl --user restart pipewire (or pulseaudio)."
        return _finding("microphone", "bad", "the sound system does not answer", how)
    if sound.missing:
        return _finding("microphone", "skipped", "not checked: PortAudio is missing")
    if not sound.device:
        return _finding("microphone", "bad", sound.trouble, *_no_device(machine))
    if sound.trouble:
        how = "End the program that holds it, or take another: `voxtui devices` lists them, --device NUMBER takes one."
        return _finding("microphone", "bad", sound.trouble, how)
    if sound.peak == 0:
        return _finding(
            "microphone", "bad", f"{sound.device}: digital silence; it is muted, or may not be heard", _unmute(machine)
        )
    return _finding("microphone", "ok", f"{sound.device}, {sound.level:.0f} dBFS now")


def _no_device(machine: Machine) -> list[str]:
    if machine.wsl and not machine.pulse:
        return []  # told where the machine is WSL
    if machine.system == "darwin":
        return ["Connect one, and choose it in System Settings > Sound > Input."]
    bridge = "sudo apt install libasound2-plugins" if machine.installer == "apt-get" else "install pipewire-alsa"
    if machine.wsl:
        return [f"Let PortAudio find Windows' microphone: {bridge}"]
    return ["Connect one.", f"If your desktop knows one already, let PortAudio find it too: {bridge}"]


def _unmute(machine: Machine) -> str:
    if machine.system == "darwin":
        return "System Settings > Privacy & Security > Microphone: allow your terminal, then start the terminal anew."
    if machine.wsl:
        return "In Windows: Settings > Privacy & security > Microphone: let desktop apps use it."
    return UNMUTE.get(machine.mixer, "Unmute it in the sound settings, or with a switch on the device.")


def _screen(screen: Screen) -> Finding:
    if not screen.terminal:
        return _finding("terminal", "skipped", "not checked: standard output is a pipe or a file")
    size = f"{screen.columns}x{screen.rows}"
    if not screen.utf8:
        return _finding("terminal", "warn", f"{size}, not UTF-8", "export LC_ALL=C.UTF-8")
    if not screen.colours:
        return _finding("terminal", "ok", f"{size}, UTF-8, no colours")
    return _finding("terminal", "ok", f"{size}, UTF-8, {'all' if screen.colours > 256 else screen.colours} colours")


# ── the way ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def way_findings(way: Way) -> list[Finding]:
    if way.kind == "ssh":
        return [_ssh(way), _server(way), _tunnel(way)]
    return [_port(way), *(_forward(each) for each in way.forwards)]


def _ssh(way: Way) -> Finding:
    if way.ssh is None:
        return _finding("ssh", "bad", way.knock.trouble)
    return _finding("ssh", "ok", way.ssh)


def _server(way: Way) -> Finding:
    knock = way.knock
    if way.ssh is None:
        return _finding("SSH server", "skipped", "not checked: there is no ssh")
    if knock.skipped:
        return _finding("SSH server", "skipped", f"not checked: {knock.skipped}")
    if knock.failure:
        how = {
            "refused": "Does sshd run there, and is the port right?",
            "unknown": "Is the name right? ssh_config and DNS do not know it.",
            "silent": "Is the machine on? Does a firewall or a VPN stand between?",
        }
        return _finding("SSH server", "bad", f"{knock.place}: {knock.trouble}", how.get(knock.failure, ""))
    slow = "; holds small messages back under ssh -N, which voxtui does not use" if delays(knock.banner) else ""
    return _finding("SSH server", "ok", f"{knock.banner or knock.place}, {_ms(knock.ms)} away{slow}")


def delays(banner: str) -> bool | None:
    """Whether a server holds small messages back where no command runs; None if its version does not tell."""
    found = re.search(r"OpenSSH_(\d+)\.(\d+)", banner)
    return (int(found[1]), int(found[2])) < PROMPT_SSHD if found else None


def _tunnel(way: Way) -> Finding:
    if way.ssh is None or way.tunnel is None:
        why = "there is no ssh" if way.ssh is None else "the SSH server cannot be reached"
        return _finding("tunnel", "skipped", f"not checked: {why}")
    if way.tunnel.trouble:
        return _finding("tunnel", "bad", way.tunnel.trouble)
    if way.tunnel.loading:
        return _finding("tunnel", "ok", f"stands after {_ms(way.tunnel.ms)}")
    return _finding("tunnel", "ok", f"stands after {_ms(way.tunnel.ms)}, over {way.tunnel.how}")


def _port(way: Way) -> Finding:
    knock, name = way.knock, "socket" if way.kind == "unix" else "port"
    if way.proxy:
        return _proxy(knock, way.proxy)
    if not knock.failure:
        return _finding(name, "ok", f"{knock.place}, {_ms(knock.ms)} away")
    start = "Start a voxd: voxd start" + ("" if way.kind == "unix" else f" --listen {knock.place}")
    far = (
        "Is voxd running there with --listen? A voxd that serves its own machine alone is reached by voxtui USER@HOST."
    )
    denied = "Its file mode is the right to use it: join the group that owns it (voxd), then log in anew."
    unknown = "Is the name right?"
    how = {"denied": denied, "unknown": unknown}.get(knock.failure, start if way.near else far)
    return _finding(name, "bad", f"{knock.place}: {knock.trouble}", how)


def _proxy(knock: Knock, variable: str) -> Finding:
    if knock.failure:
        how = f"Mend {variable}, or go without the proxy: --no-proxy, or NO_PROXY with the name of voxd's machine."
        return _finding("proxy", "bad", f"{knock.place} ({variable}): {knock.trouble}", how)
    return _finding("proxy", "ok", f"{knock.place} ({variable}), {_ms(knock.ms)} away; --no-proxy goes around it")


def _forward(forward: Forward) -> Finding:
    what = f"ssh to {forward.host} (pid {forward.pid})"
    slow = delays(forward.banner)
    if not forward.bare or slow is False:
        return _finding("forward", "ok", f"{what} carries it")
    server = f"its server, {forward.banner}, holds" if slow else "servers up to OpenSSH 10.0 hold"
    return _finding(
        "forward",
        "warn",
        f"{what} runs with -N: {server} small messages back, some 20 ms each",
        f"Let voxtui make the tunnel: voxtui {forward.host}",
        f"Or in place of it: ssh -T -L {forward.listen}:{forward.to} {forward.host} cat",
    )


def _ms(ms: float) -> str:
    return f"{ms:.1f} ms" if ms < 9.95 else f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


# ── voxd ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def voxd_findings(voxd: Voxd) -> list[Finding]:
    """The findings about voxd up to the last check (words for a spoken sentence); what prevents that check ends the
    list."""
    if voxd.answer is None:
        return [_rest("there is no way to voxd")]
    if voxd.answer.code == 401:
        return [_no_entry(voxd.token), _rest("voxd lets nobody in without its token")]
    if voxd.answer.status is None:
        how = "Is the address right, and does voxd live? `voxd status` on its machine tells."
        return [_finding("engine", "bad", voxd.answer.said, how), _rest("no voxd answers")]
    status = voxd.answer.status
    found = [_token(voxd.token), _engine(status), *_versions(status)]
    if voxd.link is None:
        return [*found, _rest("there is no session to be had now")]
    return [*found, _link(voxd.link)] + ([_rest("there is no session to speak in")] if voxd.link.trouble else [])


def _rest(why: str) -> Finding:
    return _finding("the rest", "skipped", f"not checked: {why}")


def _no_entry(token: Token) -> Finding:
    said = "refused" if token.given else "voxd wants one, and none is given"
    how = "On voxd's machine `voxd token` prints it; here VOXD_TOKEN or --token-file FILE gives it."
    return _finding("token", "bad", said, how)


def _token(token: Token) -> Finding:
    if not token.wanted:
        return _finding("token", "ok", "none is needed on this way")
    if token.file is not None and token.mode & 0o077:
        said = f"accepted, but others can read {token.file} (mode {token.mode:04o})"
        return _finding("token", "warn", said, f"chmod 600 {token.file}")
    return _finding("token", "ok", "accepted" if token.given else "voxd asks for none")


def _engine(status: Status) -> Finding:
    names = " and ".join(filter(None, (status.engines.transcribe, status.engines.respond))) or "engine"
    state = f"{names}: {status.state}" + (f": {status.progress}" if status.progress else "")
    if status.state in ("loading", "restarting"):
        return _finding("engine", "warn", state, "Ask again in a moment.")
    if status.state != "ready":
        how = "Its log tells more: journalctl -u voxd, or the terminal in which it runs."
        return _finding("engine", "bad", state, how)
    if status.full:
        how = "Wait until somebody goes, or raise server.max_sessions there."
        return _finding("engine", "warn", f"{names}: ready, but all {status.sessions} sessions are taken", how)
    return _finding("engine", "ok", f"{names}: ready")


def _versions(status: Status) -> list[Finding]:
    if not status.version:
        return []
    if status.version != __version__:
        said = f"voxtui {__version__} here, voxd {status.version} there"
        return [_finding("versions", "warn", said, "Should anything be odd, bring the older one up to date.")]
    return [_finding("versions", "ok", f"voxtui and voxd {__version__}")]


def _link(link: LinkCheck) -> Finding:
    if link.trouble:
        return _finding("WebSocket", "bad", link.trouble)
    return _finding("WebSocket", "ok", f"open after {_ms(link.open_ms)}, ping {_ms(link.ping_ms)}")


def words_finding(words: Words) -> Finding:
    """The finding of the last check: whether a spoken sentence came back as words."""
    if words.trouble:
        return _finding("speech", "bad", words.trouble)
    if not words.metrics:
        how = "Its log may say why; `voxd status` names the engines."
        return _finding("speech", "bad", "a spoken sentence went in, and no words came out", how)
    named = ("first_text_ms", "final_ms", "ttft_user_ms")
    figures = ", ".join(f"{name} {words.metrics[name]:.0f}" for name in named if name in words.metrics)
    if words.metrics.get("rtf", 0.0) >= 1.0:
        said = f"{figures}; the engine takes longer than the speech lasts (rtf {words.metrics['rtf']:.2f})"
        return _finding("speech", "warn", said, "That machine is busy or too small for the engine: see `voxd engines`.")
    return _finding("speech", "ok", figures)
