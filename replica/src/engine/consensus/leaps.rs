//! Pure: limits how far peers may raise the ballot number.
//!
//! An election adds one to the number, so the numbers last for ages. But a faulty peer's message
//! may claim a number far above; it would be promised and stay on disk for ever, and after the last
//! number no replica can lead any more. So a replica follows only as far as a rate over time
//! allows, which elections never reach, and a leader raises the number at once no further than the
//! others follow. Guarantees that a faulty peer needs years to reach the last number; that all
//! replicas follow equally far, however long they have been up; and that a replica that was led
//! ahead of the others is followed once as much time has passed.

/// The distance that a replica follows a ballot at once: more than the elections held while a
/// replica is away.
const LEAP: u32 = 1 << 20;
/// Ticks after which a replica may follow one number further, up to that limit.
const REFILL_TICKS: u64 = 5;
/// Ticks for which a refused ballot is remembered: during them the allowance grows beyond that
/// limit, as a replica may have been led to that ballot.
const REFUSED_TICKS: u64 = 1_000;
/// The distance that a leader goes at once to outbid another ballot. A replica that has just
/// started follows two such steps.
const STEP: u32 = LEAP / 2;

/// The ballot number reached, and how far it may still be raised.
pub(super) struct Leaps {
    /// The highest number reached up to now.
    reached: u32,
    /// The distance above it that a peer's ballot may have.
    left: u32,
    /// The distance that a leader may raise the number itself: no more than replicas that have just
    /// started still follow.
    spare: u32,
    now: u64,
    /// The tick until which a refused ballot is remembered.
    refused_until: u64,
}

impl From<u32> for Leaps {
    /// Starts from the number that was promised before.
    fn from(reached: u32) -> Self {
        Self { reached, left: LEAP, spare: LEAP, now: 0, refused_until: 0 }
    }
}

impl Leaps {
    /// Whether a ballot is further than this replica follows now at the request of others.
    pub fn is_far(&self, number: u32) -> bool {
        number > self.reached.saturating_add(self.left)
    }

    /// Whether a peer's ballot is too far. If so, this is remembered, so that it is accepted in a
    /// while if it comes again.
    pub fn refuses(&mut self, number: u32) -> bool {
        let is_far = self.is_far(number);
        if is_far {
            self.refused_until = self.now + REFUSED_TICKS;
        }
        is_far
    }

    /// Returns the number that a leader promises in order to get above another number: that number,
    /// or a step towards it. `None` when the others would not follow now.
    pub fn towards(&self, above: u32) -> Option<u32> {
        let way = above.saturating_sub(self.reached).min(STEP);
        // The leader goes one above the number that it promises.
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

    /// Records that the number was raised to this one.
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

    /// A replica is led no further than another one follows, however long it has been up.
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

    /// One replica was led to the limit, and later a little further. The others are not left
    /// behind, and they drop the extra allowance when no peer asks for it.
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

    /// A leader gets above such a ballot in a few steps, 250 ticks apart, and replicas that have
    /// just started follow each of them.
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
