"""A program on a pseudo-terminal, and what is on its screen.

The emulator knows what the console writes: cursor positions, erasing, colors and modes. Of these it
keeps only whether they are back to how a terminal begins.
"""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
import typing

FORBIDDEN = [b"\x1b[?1049h", b"\x1b[?1000h", b"\x1b[?1002h", b"\x1b[?1003h", b"\x1b[?1006h", b"\x1b[?2004h",
             b"\x1b[?1004h", b"\x1b[>", b"\x1b]11;", b"\x1b[6n"]
SEQUENCE = re.compile(rb"\x1b(?:\[([?>=]?)([0-9;]*)([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)|[()][A-Z0-9]|[=>78cDEHMNOZ])")
# Seconds for which whoever presses keys looks at what is asked, and between two keys.
LOOKS = 0.4
BETWEEN_KEYS = 0.02
# Modes that are on when a terminal begins: the cursor is shown, lines wrap.
MODES = frozenset({b"7", b"25"})


class Look:
    """How characters would be drawn now: what has been set and not been reset."""

    def __init__(self):
        self.foreground = self.background = self.underline = False
        self.attributes = set()

    def take(self, numbers):
        numbers = list(numbers) or [0]
        while numbers:
            number = numbers.pop(0)
            if number == 0:
                self.__init__()
            elif number in (38, 48, 58):
                # A color follows, by number or by its three parts.
                numbers = numbers[2 if numbers[:1] == [5] else 4:]
                name = {38: "foreground", 48: "background", 58: "underline"}[number]
                setattr(self, name, True)
            elif number in (39, 49, 59):
                setattr(self, {39: "foreground", 49: "background", 59: "underline"}[number], False)
            elif 30 <= number <= 37 or 90 <= number <= 97:
                self.foreground = True
            elif 40 <= number <= 47 or 100 <= number <= 107:
                self.background = True
            elif number < 10:
                self.attributes.add(number)
            elif number == 22:
                self.attributes -= {1, 2}
            elif 23 <= number <= 29:
                self.attributes.discard(number - 20)

    def is_plain(self):
        return not (self.foreground or self.background or self.underline or self.attributes)


class Terminal:
    # Those that are open, so that whoever waits for something else reads them meanwhile.
    opened: typing.ClassVar[list] = []

    def __init__(self, command, width, height, env=None):
        self.master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.resize(width, height)
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
                                        env=env, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))  # noqa: PLW1509
        self.raw = b""
        self.pending = b""
        self.modes, self.look, self.has_region = set(MODES), Look(), False
        self.clear()
        self.opened.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def resize(self, width, height):
        self.width, self.height = width, height
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def clear(self):
        self.cells = [[" "] * self.width for _ in range(self.height)]
        self.x = self.y = 0

    def read(self, seconds=0.1):
        """Takes in what the program writes, for a while."""
        until = time.monotonic() + seconds
        taken = 0
        while (left := until - time.monotonic()) > 0:
            if not select.select([self.master], [], [], left)[0]:
                break
            try:
                data = os.read(self.master, 65536)
            except OSError:
                break
            if not data:
                break
            taken += len(data)
            self.raw += data
            self.feed(data)
        return taken

    @classmethod
    def read_opened(cls, seconds):
        """Takes in what all programs write, for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            ready = select.select([one.master for one in cls.opened], [], [], left)[0]
            for one in [one for one in cls.opened if one.master in ready]:
                one.read(0.01)

    def feed(self, data):
        data = self.pending + data
        self.pending = b""
        at = 0
        while at < len(data):
            byte = data[at]
            if byte == 0x1B:
                found = SEQUENCE.match(data, at)
                if not found:
                    if len(data) - at < 64:
                        self.pending = data[at:]
                        return
                    at += 1
                    continue
                self.sequence(found)
                at = found.end()
            elif byte == 0x0D:
                self.x, at = 0, at + 1
            elif byte == 0x0A:
                self.y, at = min(self.y + 1, self.height - 1), at + 1
            elif byte < 0x20:
                at += 1
            else:
                size = 1 if byte < 0x80 else 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
                if at + size > len(data):
                    self.pending = data[at:]
                    return
                self.put(data[at:at + size].decode(errors="replace"))
                at += size

    def put(self, character):
        if self.x >= self.width:
            self.x, self.y = 0, min(self.y + 1, self.height - 1)
        if self.y < len(self.cells) and self.x < len(self.cells[self.y]):
            self.cells[self.y][self.x] = character
        self.x += 1

    def sequence(self, found):
        private, numbers, final = found.group(1), found.group(2), found.group(3)
        if final is None:
            return
        if private:
            if private == b"?" and final in b"hl":
                change = self.modes.update if final == b"h" else self.modes.difference_update
                change(numbers.split(b";"))
            return
        numbers = [int(number) if number else 0 for number in numbers.split(b";")] if numbers else []
        first = numbers[0] if numbers else 0
        if final in b"Hf":
            row, column = (numbers + [1, 1])[:2] if numbers else (1, 1)
            self.y, self.x = max(row, 1) - 1, max(column, 1) - 1
        elif final in b"JK":
            self.erase(final, first)
        elif final == b"C":
            self.x += max(first, 1)
        elif final == b"G":
            self.x = max(first, 1) - 1
        elif final == b"m":
            self.look.take(numbers)
        elif final == b"r":
            self.has_region = bool(numbers)

    def erase(self, what, part):
        """Erases the screen (J) or the line (K): what comes after the cursor, what is before it, or all."""
        row = min(self.y, self.height - 1)
        rows = range(self.height) if what == b"J" else [row]
        here = (row, min(self.x, self.width - 1))
        for y in rows:
            for x in range(self.width):
                if part >= 2 or (part == 0 and (y, x) >= here) or (part == 1 and (y, x) <= here):
                    self.cells[y][x] = " "

    def text(self):
        return "\n".join("".join(row) for row in self.cells)

    def until(self, what, seconds):
        """Waits for a text on the screen; how long that took."""
        began = time.monotonic()
        found = (lambda: re.search(what, self.text())) if isinstance(what, str) else what
        while True:
            self.read(0.05)
            if found():
                return time.monotonic() - began
            if time.monotonic() - began > seconds:
                raise AssertionError(f"not on the screen within {seconds} s: {what}\n{self.text()}")
            if self.process.poll() is not None and not self.read(0.2):
                raise AssertionError(f"the program ended ({self.process.returncode}):\n{self.text()}\n{self.raw[-500:]}")

    def keys(self, text):
        """Presses keys one by one, as somebody does who looks at what each of them does: what comes
        all at once is taken as pasted."""
        for key in text:
            if key in "y\r\n":
                self.read(LOOKS)
            os.write(self.master, key.encode())
            self.read(LOOKS if key == ":" else BETWEEN_KEYS)
        self.read(0.2)

    def forbidden(self):
        return [sequence for sequence in FORBIDDEN if sequence in self.raw]

    def says(self, what):
        """Whether a text is on the screen, wherever its lines break."""
        return what in " ".join(re.sub("[│┃|]", " ", self.text()).split())

    def left_behind(self):
        """What is not as it was before the program: of the line, and of what the terminal shows."""
        left = [f"mode {mode.decode()}" for mode in sorted(self.modes ^ MODES)]
        if termios.tcgetattr(self.slave)[:4] != self.before[:4]:
            left.append("the line's modes")
        if not self.look.is_plain():
            left.append(f"the look of characters: {vars(self.look)}")
        if self.has_region:
            left.append("a scrolling region")
        if self.pending:
            left.append(f"half a sequence: {self.pending}")
        return left

    def close(self, how=None):
        if self.process.poll() is None:
            self.process.send_signal(how or 15)
            until = time.monotonic() + 5
            while self.process.poll() is None and time.monotonic() < until:
                self.read(0.05)
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        self.read(0.2)
        if self in self.opened:
            self.opened.remove(self)
