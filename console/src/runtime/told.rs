//! What the loop does when a signal comes, and how it stops for a while.

use std::time::Duration;

use super::{Due, Front, Runtime};
use crate::app::output::Verdict;
use crate::message::{Effect, Event};
use crate::signals::{self, Told};

/// How long the sizes of a viewer who attaches take to settle.
const SIZE_SETTLES: Duration = Duration::from_millis(50);

impl Runtime {
    /// Does what a signal says; when to draw it.
    pub(super) fn told(&mut self, told: Told) -> Due {
        match (told, &self.front) {
            (Told::End, _) => {
                self.app.is_quitting = true;
                return Due::Not;
            }
            (Told::Suspend, _) => {
                self.suspend();
                return Due::Not;
            }
            (Told::GoOn, Front::Screen(screen)) => screen.resume(),
            (Told::Resized, Front::Screen(_)) if self.app.settings.is_shared => {
                // A viewer who attaches tells two sizes; the first one is not drawn.
                std::thread::sleep(SIZE_SETTLES);
            }
            (Told::Resized, Front::Screen(_)) => {}
            (Told::GoOn | Told::Resized, _) => return Due::Not,
        }
        let (width, height) = crate::screen::size();
        self.take(Event::Resize { width, height });
        self.carry_out(Effect::Redraw);
        Due::Now
    }

    /// Asks whoever can let it go on again to stop it.
    pub(super) fn ask_to_suspend(&mut self) {
        if signals::may_suspend() {
            return signals::ask_to_suspend();
        }
        let note = "there is no shell behind this console that could let it go on";
        self.app.output.say(self.app.now, Verdict::Note, note);
    }

    /// Stops until somebody says that it goes on.
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
