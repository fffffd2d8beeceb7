//! An open subscription of a connection.
//!
//! Guarantees that its events come in order and each once; that one which is not read takes a
//! bounded part of memory, and slows nothing else on its connection: it is put off, and goes on
//! from where it was when what had come was read. It ends with its connection, when the replica
//! does not let it go on, and when dropped. Does not look for another replica; the holder does.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use tokio_stream::{Stream, StreamExt};

use crate::connection::{Connection, EndsCall};
use crate::message::{Answer, Event, Refusal, Subscription};
use crate::queue::{Queued, queue};

/// The queue of a subscription that is open.
struct Open {
    queued: Queued,
    /// Ends the subscription when this is dropped.
    _ends: EndsCall,
}

/// Where a subscription is.
enum State {
    /// It is open, or was put off and something is left to read.
    Open(Open),
    /// It was put off, and is being opened again.
    Reopening(Pin<Box<dyn Future<Output = Opened> + Send>>),
    /// It has ended.
    Over,
}

/// The index from which events come, and the queue; the replica's refusal as an answer; `None` when
/// the connection was lost.
type Opened = Result<(u64, Open), Option<Answer>>;

/// An open subscription.
pub struct Events {
    /// The first event is at or after this index.
    pub from: u64,
    connection: Arc<Connection>,
    subscription: Subscription,
    /// The index of the first event that has not come.
    next: u64,
    state: State,
}

impl Events {
    /// Opens a subscription.
    ///
    /// # Errors
    /// The replica's refusal as an answer, or `None` when the connection is lost.
    pub async fn open(
        connection: Arc<Connection>,
        subscription: Subscription,
    ) -> Result<Self, Option<Answer>> {
        let (from, open) = subscribe(Arc::clone(&connection), subscription.clone()).await?;
        Ok(Self { from, connection, subscription, next: from, state: State::Open(open) })
    }

    /// Returns the next event, if it is there already.
    pub fn try_next(&mut self) -> Option<Event> {
        self.next().now_or_never().flatten()
    }

    /// Returns the name of the replica that sends the events.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.connection.welcome().name
    }

    fn take(&mut self, event: Event) -> Event {
        match &event {
            Event::Entry(entry) => self.next = entry.index + 1,
            Event::Key(change) => self.next = change.index + 1,
            Event::Progress { next } => self.next = *next,
            Event::Compacted { .. } => self.state = State::Over,
            Event::Status(_) => {}
        }
        event
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            let this = &mut *self;
            this.state = match &mut this.state {
                State::Open(now) => match ready!(now.queued.poll(cx)) {
                    Some(event) => return Poll::Ready(Some(this.take(event))),
                    None if this.connection.is_open() => {
                        let again = this.subscription.clone().going_on(this.next);
                        State::Reopening(Box::pin(subscribe(Arc::clone(&this.connection), again)))
                    }
                    None => State::Over,
                },
                State::Reopening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Ok((_, open)) => State::Open(open),
                    Err(Some(Answer::Refused(Refusal::Compacted { from }))) => {
                        return Poll::Ready(Some(this.take(Event::Compacted { from })));
                    }
                    Err(_) => State::Over,
                },
                State::Over => return Poll::Ready(None),
            };
        }
    }
}

async fn subscribe(connection: Arc<Connection>, subscription: Subscription) -> Opened {
    let (queue, queued) = queue();
    let (ends, answer) = connection.subscribe(subscription, queue).await.or(Err(None))?;
    let open = Open { queued, _ends: ends };
    match answer.await {
        Ok(Answer::Subscribed { from }) => Ok((from, open)),
        Ok(other) => Err(Some(other)),
        Err(_) => Err(None),
    }
}

#[cfg(test)]
mod tests;
