//! Pure: how far peers may raise the number of ballots.
//!
//! An election adds one to the number, so it lasts for ages; but a message that claims more by far,
//! of a peer that errs, would be promised and stay on disk for ever, and after the last number
//! nobody leads any more. So a replica follows as far as time allows, by a rate that elections
//! never come to, and a leader goes no further at once than the others follow. Guarantees that the
//! last number is years of such a peer away; that all follow equally far, however long they have
//! been up; and that whoever was led ahead of the others is followed when as much time has passed.

/// How far a replica follows: more elections than there were while somebody was away.
const LEAP: u32 = 1 << 20;
/// Ticks after which it follows one further, up to that.
const REFILL_TICKS: u64 = 5;
/// Ticks for which a ballot that was too far is remembered: so long it is followed further than
/// that, as somebody may have been led there.
const REFUSED_TICKS: u64 = 1_000;
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
    now: u64,
    /// Until when a ballot that was too far is remembered.
    refused_until: u64,
}

impl From<u32> for Leaps {
    /// At the start, from a number that was promised before.
    fn from(reached: u32) -> Self {
        Self { reached, left: LEAP, spare: LEAP, now: 0, refused_until: 0 }
    }
}

impl Leaps {
    /// Whether a ballot is further than this replica goes now on the word of others.
    pub fn is_far(&self, number: u32) -> bool {
        number > self.reached.saturating_add(self.left)
    }

    /// Whether a peer's ballot is that far. If so, it will not be for long, if it comes again.
    pub fn refuses(&mut self, number: u32) -> bool {
        let is_far = self.is_far(number);
        if is_far {
            self.refused_until = self.now + REFUSED_TICKS;
        }
        is_far
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
        self.now += 1;
        let refused = self.now < self.refused_until;
        if self.now.is_multiple_of(REFILL_TICKS) {
            self.left = self.left.saturating_add(1);
            self.spare = self.spare.saturating_add(1).min(LEAP);
        }
        if !refused {
            self.left = self.left.min(LEAP);
        }
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

    fn wait(leaps: &mut [&mut Leaps], ticks: u64) {
        for leaps in leaps {
            (0..ticks).for_each(|_| leaps.tick());
        }
    }

    #[test]
    fn numbers_are_used_up_slowly() {
        let mut leaps = Leaps::from(7);
        for _ in 0..10_000 {
            wait(&mut [&mut leaps], REFILL_TICKS);
            let far = leaps.reached + leaps.left;
            assert!(leaps.refuses(far + 1) && !leaps.refuses(far));
            leaps.reached(far);
        }
        assert!(leaps.reached <= 7 + LEAP + 10_000, "{}", leaps.reached);
        leaps.reached(leaps.reached + 1);
        assert_eq!(leaps.left, 0, "its own election came on top");
    }

    /// However long one has been up, it is led no further than another one follows.
    #[test]
    fn all_follow_equally_far() {
        let (mut old, mut other) = (Leaps::from(7), Leaps::from(7));
        wait(&mut [&mut old], 100_000_000);
        assert!(old.refuses(8 + LEAP) && !old.refuses(7 + LEAP));
        old.reached(7 + LEAP);
        assert!(other.refuses(8 + LEAP), "its next election is one too far");
        wait(&mut [&mut other], REFILL_TICKS);
        assert!(!other.refuses(8 + LEAP));
    }

    /// A peer was led as far as it goes, and a little further later. Those that were not are not
    /// left behind, and forget what they allowed when nobody asks for it.
    #[test]
    fn whoever_was_led_ahead_is_followed() {
        let (mut led, mut other) = (Leaps::from(7), Leaps::from(7));
        led.reached(7 + LEAP);
        wait(&mut [&mut led], 100 * REFILL_TICKS);
        led.reached(7 + LEAP + 100);
        assert!(other.refuses(led.reached + 1));
        wait(&mut [&mut other], 101 * REFILL_TICKS);
        assert!(!other.refuses(led.reached + 1));
        wait(&mut [&mut other], REFUSED_TICKS);
        assert!(other.refuses(led.reached + 1));
    }

    /// A leader comes above such a one in a few steps, with 250 ticks between two, each of which
    /// those follow who have just started.
    #[test]
    fn a_leader_outbids_in_steps_that_the_others_follow() {
        let (mut leader, mut others) = (Leaps::from(7), Leaps::from(7));
        wait(&mut [&mut leader], 1_000_000);
        let (far, mut steps) = (7 + LEAP, 0);
        assert_eq!(leader.towards(100), Some(100));
        while leader.reached <= far {
            wait(&mut [&mut leader, &mut others], 250);
            let next = leader.towards(far).expect("the others follow") + 1;
            assert!(!others.refuses(next));
            leader.reached(next);
            others.reached(next);
            steps += 1;
        }
        assert_eq!(steps, 2);
        assert_eq!(leader.towards(far + LEAP), None, "not now");
    }
}
