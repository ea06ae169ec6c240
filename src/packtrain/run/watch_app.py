"""The live view on a terminal. Reading is done in a thread: the interface never waits for a bucket."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Container
from textual.events import Resize
from textual.widgets import Static

from packtrain.run.watch_curves import draw_all
from packtrain.run.watch_source import Watched
from packtrain.run.watch_view import View, progress_bar

#: Columns from which on events and log stand beside the curve.
WIDE = 120


class WatchApp(App[Exception]):
    """Its result is what ended it, if anything but the user did."""

    TITLE = "packtrain watch"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [("q", "quit"), ("ctrl+c", "quit")]
    CSS = """
    #head { height: auto; }
    #figures { height: auto; margin: 0 0 1 0; }
    #body { height: 1fr; layout: vertical; }
    #curve { height: 2fr; min-height: 5; }
    #words { height: 1fr; min-height: 3; layout: vertical; }
    #events, #log { height: 1fr; }
    #foot { height: 1; color: $text-muted; }
    .wide #body { layout: horizontal; }
    .wide #curve { width: 3fr; height: 100%; }
    .wide #words { width: 2fr; height: 100%; margin: 0 0 0 2; }
    """

    def __init__(self, watched: Watched, every: float) -> None:
        super().__init__(ansi_color=True)
        self._watched, self._every = watched, every
        self._left = threading.Event()
        self.view: View | None = None

    def compose(self) -> ComposeResult:
        yield Static("reading …", id="head")
        yield Static("", id="figures")
        with Container(id="body"):
            yield Static("", id="curve")
            with Container(id="words"):
                yield Static("", id="events")
                yield Static("", id="log")
        yield Static("", id="foot")

    def on_mount(self) -> None:
        # No worker of textual's: leaving would wait for a bucket that does not answer.
        threading.Thread(target=self._keep_looking, name="packtrain-watch", daemon=True).start()

    def on_unmount(self) -> None:
        self._left.set()

    def _keep_looking(self) -> None:
        while not self._left.is_set():
            try:
                view = self._watched.look()
            except Exception as error:  # noqa: BLE001  (raised again by who runs the app)
                self._tell(self.exit, error)
                return
            self._tell(self.show, view)
            self._left.wait(self._every)

    def _tell(self, call: Callable[..., None], *values: object) -> None:
        if not self._left.is_set():
            with suppress(RuntimeError):  # it is being left
                self.call_from_thread(call, *values)

    def show(self, view: View) -> None:
        self.view = view
        self.call_after_refresh(self._draw)

    def on_resize(self, event: Resize) -> None:
        self.screen.set_class(event.size.width >= WIDE, "wide")
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        view = self.view
        if view is None or not self.is_running:
            return
        width = self.size.width
        lines = [f"{view.name}  {view.status}", view.place]
        lines += [f"in the cluster: {view.cluster}"] if view.cluster else []
        lines += [f"not seen: {view.note}"] if view.note else []
        self._put("head", lines)
        self._put("figures", ["  ".join(view.figures), progress_bar(view.step, view.steps, width)], wrap=True)
        curve = self.query_one("#curve", Static).size
        self._put("curve", draw_all(view, curve.width, curve.height))
        self.query_one("#log", Static).display = bool(view.log)
        for name, words in (("events", [line for _, line in view.events]), ("log", view.log)):
            room = self.query_one(f"#{name}", Static).size.height - 1
            self._put(name, ["Log" if name == "log" else "Events", *(words[-room:] if room > 0 else ())])
        self._put("foot", ["The run has ended; q leaves" if view.over else "q leaves; the run goes on"])

    def _put(self, name: str, lines: list[str], *, wrap: bool = False) -> None:
        """As it is: what a run says is no markup."""
        text = Text("\n".join(lines), no_wrap=not wrap, overflow="fold" if wrap else "ellipsis")
        self.query_one(f"#{name}", Static).update(text)
