//! Pure: how far peers may raise the number of ballots.
//!
//! An election adds one to the number, so it lasts for ages; but a message that claims more by far,
//! of a peer that errs, would be promised and stay on disk for ever, and after the last number
//! nobody leads any more. So a replica follows as far as time allows, by a rate that elections
//! never come to, and a leader goes no further at once than the others follow. Guarantees that the
//! last number is years of such a peer away, and that whoever was led ahead of the others is
//! followed when as much time has passed.

/// How far a replica follows when it has just started: more elections than there were while
/// somebody was away.
const LEAP: u32 = 1 << 20;
/// How much further with each tick.
const REFILL: u32 = 2;
/// How far a leader goes at once to outbid another ballot. Whoever has just started follows twice.
const STEP: u32 = LEAP / 2;

/// How far the number was raised, and may be.
pub(super) struct Leaps {
    /// The number up to now.
    reached: u32,
    /// How far above it a peer's ballot may be.
    left: u32,
    /// How far a leader may go on its own account: what those have left at least who have just
    /// started.
    spare: u32,
}

impl Default for Leaps {
    fn default() -> Self {
        Self::from(0)
    }
}

impl From<u32> for Leaps {
    /// At the start, from a number that was promised before.
    fn from(reached: u32) -> Self {
        Self { reached, left: LEAP, spare: LEAP }
    }
}

impl Leaps {
    /// Whether a peer's ballot is further than this replica follows now.
    pub fn is_far(&self, number: u32) -> bool {
        number > self.reached.saturating_add(self.left)
    }

    /// What a leader promises to come above another number: that, or a step towards it. `None` when
    /// the others would not follow now.
    pub fn towards(&self, above: u32) -> Option<u32> {
        let way = above.saturating_sub(self.reached).min(STEP);
        // It goes one above what it promises.
        (way < self.spare).then(|| self.reached + way)
    }

    /// Lets a tick pass.
    pub fn tick(&mut self) {
        self.left = self.left.saturating_add(REFILL);
        self.spare = self.spare.saturating_add(REFILL).min(LEAP);
    }

    /// The number was raised to this one.
    pub fn reached(&mut self, number: u32) {
        let raised = number - self.reached;
        self.left = self.left.saturating_sub(raised);
        self.spare = self.spare.saturating_sub(raised);
        self.reached = number;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(leaps: &mut [&mut Leaps], ticks: u32) {
        for leaps in leaps {
            (0..ticks).for_each(|_| leaps.tick());
        }
    }

    #[test]
    fn numbers_are_used_up_slowly() {
        let mut leaps = Leaps::from(7);
        for _ in 0..10_000 {
            wait(&mut [&mut leaps], 1);
            let far = leaps.reached + leaps.left;
            assert!(leaps.is_far(far + 1) && !leaps.is_far(far));
            leaps.reached(far);
        }
        assert_eq!(leaps.reached, 7 + LEAP + 10_000 * REFILL);
        leaps.reached(leaps.reached + 1);
        assert_eq!(leaps.left, 0, "its own election came on top");
    }

    /// A peer was led as far as it goes, and a little further later. Those that were not are not
    /// left behind.
    #[test]
    fn whoever_was_led_ahead_is_followed() {
        let (mut led, mut other) = (Leaps::from(7), Leaps::from(7));
        led.reached(7 + LEAP);
        wait(&mut [&mut led, &mut other], 100);
        led.reached(7 + LEAP + 100 * REFILL);
        assert!(!other.is_far(led.reached));
        assert!(other.is_far(led.reached + 1), "it is its next election that has to wait");
        wait(&mut [&mut other], 1);
        assert!(!other.is_far(led.reached + 1));
    }

    /// A leader comes above such a one in a few steps, with 250 ticks between two, each of which
    /// those follow who have just started.
    #[test]
    fn a_leader_outbids_in_steps_that_the_others_follow() {
        let (mut leader, mut others) = (Leaps::from(7), Leaps::from(7));
        wait(&mut [&mut leader], 1_000_000);
        let (far, mut steps) = (7 + LEAP + 100, 0);
        assert_eq!(leader.towards(100), Some(100));
        while leader.reached <= far {
            wait(&mut [&mut leader, &mut others], 250);
            let next = leader.towards(far).expect("the others follow") + 1;
            assert!(!others.is_far(next));
            leader.reached(next);
            others.reached(next);
            steps += 1;
        }
        assert_eq!(steps, 3);
        assert_eq!(leader.towards(far + LEAP), None, "not now");
    }
}
