//! The loop's reaction to signals, and how it suspends the process.

use std::time::Duration;

use super::{Due, Front, Runtime};
use crate::app::output::Verdict;
use crate::message::{Effect, Event};
use crate::signals::{self, Request};

/// The time within which the sizes that an attaching viewer sends settle.
const SIZE_SETTLES: Duration = Duration::from_millis(50);

impl Runtime {
    /// Handles a signal, and returns when to draw the change.
    pub(super) fn told(&mut self, told: Request) -> Due {
        match (told, &self.front) {
            (Request::End, _) => {
                self.app.is_quitting = true;
                return Due::Not;
            }
            (Request::Suspend, _) => {
                self.suspend();
                return Due::Not;
            }
            (Request::GoOn, Front::Screen(screen)) => screen.resume(),
            (Request::Resized, Front::Screen(_)) if self.app.settings.is_shared => {
                // An attaching viewer sends two sizes; the first one is not drawn.
                std::thread::sleep(SIZE_SETTLES);
            }
            (Request::Resized, Front::Screen(_)) => {}
            (Request::GoOn | Request::Resized, _) => return Due::Not,
        }
        let (width, height) = crate::screen::size();
        self.take(Event::Resize { width, height });
        self.carry_out(Effect::Redraw);
        Due::Now
    }

    /// Asks for the whole job to be stopped, or reports that no shell could continue it.
    pub(super) fn ask_to_suspend(&mut self) {
        if signals::may_suspend() {
            return signals::ask_to_suspend();
        }
        let note = "there is no shell behind this console that could let it go on";
        self.app.output.say(self.app.now, Verdict::Note, note);
    }

    /// Stops the process until it is continued, if a shell can do that.
    fn suspend(&mut self) {
        if !signals::may_suspend() {
            return;
        }
        if let Front::Screen(screen) = &self.front {
            screen.suspend();
        }
        signals::suspend();
    }
}
