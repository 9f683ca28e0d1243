//! Waits on the user's own crossbeam channels: [`recv`], [`send`] and their kin; [`received`] and [`sent`] for a `select!`.
//!
//! # Promises
//!
//! 1. Exactly one outcome: the value was taken, or sent, or it is still where it was. What is not sent comes back.
//! 2. With a value there, or room, it costs what crossbeam's own call does and a look at the place. Who finds none tries as
//!    often as crossbeam's call does, then sleeps; the pool is told only then.
//! 3. The channel may be used by anybody else meanwhile, in any other way.
//! 4. Who is to stop is told so, and not that the channel is closed: whoever was at its other end has stopped as well, as a
//!    rule, and that is no failure.
//!
//! # Does not know
//!
//! Who is at the other end.
//!
//! # Why no wake-up is lost
//!
//! For what comes by the channel, crossbeam's `Select` says so: it is registered with the channel before it looks at it,
//! and of those who are registered one is told of each message. If the `Select` ends for another reason, its entry is
//! gone before: a sender finds it, and hands its message over, or finds the next. For a cancel see `park/seat.rs`.

use crate::{
    cancel::{
        current::{self, Activity},
        mark::await_marks,
        reason::Cancelled,
    },
    park::{
        seat::{Channel, Seat, with_chair},
        standstill::Wait,
        turns::Meeting,
    },
    prim::Mailbox,
    wait::{self, Awaited, Call, End},
};
use crossbeam::{
    channel::{self, Receiver, Select, SelectedOperation, Sender, TryRecvError, TrySendError},
    utils::Backoff,
};
use std::{
    error::Error,
    fmt,
    iter::FusedIterator,
    panic::Location,
    sync::Arc,
    time::{Duration, Instant},
};

/// Receives a value, waiting until there is one, unless told to stop.
///
/// Blocks until a value comes, all senders are gone, or the code here is to stop. Outside any scope it is
/// [`Receiver::recv`].
///
/// # Cancellation
///
/// Always a checkpoint: on entry it answers [`RecvError::Cancelled`] and takes nothing, even if there is a value. If a stop
/// comes during the wait and so does a value, the value is returned; if the channel is closed as well, it is the stop. To take
/// what is left after a stop, use [`Receiver::try_recv`] or [`Receiver::try_iter`], which are no checkpoints.
///
/// # Errors
///
/// Returns [`RecvError::Closed`] if the channel is empty and all senders are gone, and [`RecvError::Cancelled`] if the code
/// here is to stop.
///
/// # Examples
///
/// ```
/// use tassel::{channel, scope};
/// let (sender, receiver) = channel::bounded(1);
/// let sum = scope(|s| {
///     s.spawn(move || Ok(channel::send(&sender, 20)?));
///     Ok(channel::recv(&receiver)? + 1)
/// })?;
/// assert_eq!(sum, 21);
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
#[track_caller]
#[inline]
pub fn recv<T>(receiver: &Receiver<T>) -> Result<T, RecvError> {
    recv_at(receiver, || None, Location::caller())
}

/// Receives a value as [`recv`] does, but waits no longer than `timeout`.
///
/// With a timeout of zero it takes what is there. A timeout too long for the clock means none.
///
/// # Cancellation
///
/// As [`recv`], also with a timeout of zero.
///
/// # Errors
///
/// As [`recv`], and [`RecvError::TimedOut`] if no value came in time.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tassel::channel::{self, RecvError};
/// let (_sender, receiver) = channel::unbounded::<u32>();
/// let received = channel::recv_timeout(&receiver, Duration::from_millis(1));
/// assert!(matches!(received, Err(RecvError::TimedOut)));
/// ```
#[track_caller]
#[inline]
pub fn recv_timeout<T>(receiver: &Receiver<T>, timeout: Duration) -> Result<T, RecvError> {
    recv_at(receiver, || current::clock().after(timeout), Location::caller())
}

/// Receives a value as [`recv`] does, but waits no longer than until `deadline` (of [`now`](crate::now)).
///
/// # Cancellation
///
/// As [`recv`], also with a deadline that has passed.
///
/// # Errors
///
/// As [`recv_timeout`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tassel::{channel, now};
/// let (sender, receiver) = channel::unbounded();
/// channel::send(&sender, 7)?;
/// assert_eq!(channel::recv_deadline(&receiver, now())?, 7); // it was there
/// assert!(channel::recv_deadline(&receiver, now() + Duration::from_millis(1)).is_err());
/// # Ok::<(), tassel::Error>(())
/// ```
#[track_caller]
#[inline]
pub fn recv_deadline<T>(receiver: &Receiver<T>, deadline: Instant) -> Result<T, RecvError> {
    recv_at(receiver, || Some(deadline), Location::caller())
}

#[inline]
fn recv_at<T>(
    receiver: &Receiver<T>,
    until: impl FnOnce() -> Option<Instant>,
    place: &'static Location<'static>,
) -> Result<T, RecvError> {
    current::check().map_err(RecvError::Cancelled)?;
    match receiver.try_recv() {
        Ok(value) => Ok(value),
        Err(TryRecvError::Disconnected) => Err(no_sender()),
        Err(TryRecvError::Empty) => {
            let mut waiting = Waiting(Receiving { receiver, got: None });
            match waiting.wait(Activity::Receive, until(), place) {
                Ok(Ok(value)) => Ok(value),
                Ok(Err(channel::RecvError)) => Err(no_sender()),
                Err(End::Stopped(stop)) => Err(RecvError::Cancelled(stop)),
                Err(End::TimedOut) => Err(RecvError::TimedOut),
            }
        }
    }
}

/// Sends a value, waiting until there is room, unless told to stop.
///
/// Blocks until the channel takes the value, all receivers are gone, or the code here is to stop. Outside any scope it is
/// [`Sender::send`].
///
/// # Cancellation
///
/// Always a checkpoint: on entry it answers [`SendError::Cancelled`] and sends nothing, even if there is room. If a stop
/// comes during the wait and so does room, the value is sent; if the receivers are gone as well, it is the stop that is told.
/// [`Sender::try_send`] is no checkpoint.
///
/// # Errors
///
/// Returns [`SendError::Closed`] if all receivers are gone, and [`SendError::Cancelled`] if the code here is to stop. Both
/// give the value back. A value that borrows cannot be in an error that goes on with `?`: see
/// [`without_value`](SendError::without_value).
///
/// # Examples
///
/// ```
/// use tassel::channel::{self, SendError};
/// let (sender, receiver) = channel::bounded(1);
/// channel::send(&sender, "a")?;
/// assert_eq!(channel::recv(&receiver)?, "a");
/// drop(receiver);
/// assert_eq!(channel::send(&sender, "b").unwrap_err().into_value(), "b");
/// # Ok::<(), tassel::Error>(())
/// ```
#[track_caller]
#[inline]
pub fn send<T>(sender: &Sender<T>, value: T) -> Result<(), SendError<T>> {
    send_at(sender, value, || None, Location::caller())
}

/// Sends a value as [`send`] does, but waits no longer than `timeout`.
///
/// With a timeout of zero it waits for nothing. A timeout too long for the clock means none.
///
/// # Cancellation
///
/// As [`send`], also with a timeout of zero.
///
/// # Errors
///
/// As [`send`], and [`SendError::TimedOut`] if there was no room in time.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use tassel::channel::{self, SendError};
/// let (sender, _receiver) = channel::bounded(0); // nobody receives
/// let sent = channel::send_timeout(&sender, 7, Duration::from_millis(1));
/// assert!(matches!(sent, Err(SendError::TimedOut(7))));
/// ```
#[track_caller]
#[inline]
pub fn send_timeout<T>(sender: &Sender<T>, value: T, timeout: Duration) -> Result<(), SendError<T>> {
    send_at(sender, value, || current::clock().after(timeout), Location::caller())
}

/// Sends a value as [`send`] does, but waits no longer than until `deadline` (of [`now`](crate::now)).
///
/// # Cancellation
///
/// As [`send`], also with a deadline that has passed.
///
/// # Errors
///
/// As [`send_timeout`].
///
/// # Examples
///
/// ```
/// use tassel::{channel, now};
/// let (sender, receiver) = channel::bounded(1);
/// assert!(channel::send_deadline(&sender, 1, now()).is_ok()); // there was room
/// assert!(channel::send_deadline(&sender, 2, now()).is_err());
/// # drop(receiver);
/// ```
#[track_caller]
#[inline]
pub fn send_deadline<T>(sender: &Sender<T>, value: T, deadline: Instant) -> Result<(), SendError<T>> {
    send_at(sender, value, || Some(deadline), Location::caller())
}

#[inline]
fn send_at<T>(
    sender: &Sender<T>,
    value: T,
    until: impl FnOnce() -> Option<Instant>,
    place: &'static Location<'static>,
) -> Result<(), SendError<T>> {
    if let Err(stop) = current::check() {
        return Err(SendError::Cancelled(value, stop));
    }
    let value = match sender.try_send(value) {
        Ok(()) => return Ok(()),
        Err(TrySendError::Disconnected(value)) => return Err(no_receiver(value)),
        Err(TrySendError::Full(value)) => value,
    };
    let mut waiting = Waiting(Sending { sender, value: Some(value), is_closed: false });
    let ended = waiting.wait(Activity::Send, until(), place);
    let Some(value) = waiting.0.value else { return Ok(()) };
    Err(match ended {
        Ok(()) => no_receiver(value),
        Err(End::Stopped(stop)) => SendError::Cancelled(value, stop),
        Err(End::TimedOut) => SendError::TimedOut(value),
    })
}

/// Looks once more, where a channel is closed: see the fourth promise. Whoever was at the other end may have seen the mark of
/// a node above while those below were still being marked, this one among them.
#[cold]
fn check_closed() -> Result<(), Cancelled> {
    current::check()?;
    if !mutant!("closed_before_the_mark") {
        await_marks();
    }
    current::check()
}

#[cold]
fn no_sender() -> RecvError {
    check_closed().map_or_else(RecvError::Cancelled, |()| RecvError::Closed)
}

#[cold]
fn no_receiver<T>(value: T) -> SendError<T> {
    match check_closed() {
        Ok(()) => SendError::Closed(value),
        Err(stop) => SendError::Cancelled(value, stop),
    }
}

/// Turns what a receive of crossbeam's own has given, as in an arm of a `select!`, into what [`recv`] would have answered.
///
/// Where a scope is cancelled, the other end of a channel is often gone before the code here sees its own stop. crossbeam's
/// `RecvError`, passed on with `?`, would then be a failure, by chance, in a program that was only told to stop. This tells
/// the stop instead.
///
/// # Cancellation
///
/// Never blocks. A checkpoint only if there is no value: what was received is returned, also after a stop.
///
/// # Errors
///
/// Of a channel that is closed, returns [`RecvError::Cancelled`] if the code here is to stop, and [`RecvError::Closed`]
/// otherwise.
///
/// # Examples
///
/// ```
/// use tassel::{CancelToken, channel::{self, RecvError}};
/// let (sender, receiver) = channel::unbounded::<u32>();
/// drop(sender);
/// let select = || channel::select! {
///     recv(receiver) -> number => channel::received(number),
/// };
/// assert!(matches!(select(), Err(RecvError::Closed)));
///
/// let token = CancelToken::new();
/// token.cancel();
/// assert!(matches!(token.enter(select), Err(RecvError::Cancelled(_))));
/// ```
#[inline]
pub fn received<T>(result: Result<T, channel::RecvError>) -> Result<T, RecvError> {
    result.map_err(|channel::RecvError| no_sender())
}

/// Turns what a send of crossbeam's own has given, as in an arm of a `select!`, into what [`send`] would have answered: see
/// [`received`].
///
/// # Cancellation
///
/// Never blocks. A checkpoint only if nothing was sent.
///
/// # Errors
///
/// With all receivers gone, returns [`SendError::Cancelled`] if the code here is to stop, and [`SendError::Closed`] otherwise.
/// Both give the value back.
///
/// # Examples
///
/// ```
/// use tassel::channel;
/// let (sender, receiver) = channel::bounded(1);
/// let select = |number| channel::select! {
///     send(sender, number) -> result => channel::sent(result),
/// };
/// select(1)?;
/// drop(receiver);
/// assert_eq!(select(2).unwrap_err().into_value(), 2);
/// # Ok::<(), tassel::Error>(())
/// ```
#[inline]
pub fn sent<T>(result: Result<(), channel::SendError<T>>) -> Result<(), SendError<T>> {
    result.map_err(|channel::SendError(value)| no_receiver(value))
}

/// Receives value after value, each as [`recv`] does, until the channel is empty and all senders are gone.
///
/// # Cancellation
///
/// Each step is a checkpoint. If the code here is to stop, the iterator gives the [`Cancelled`] once, and then ends. So look
/// at each item, with `?`, or `collect` into a `Result`: `flatten`, `count`, `filter_map(Result::ok)` and their like take a
/// stop for the end of the values.
///
/// # Examples
///
/// ```
/// use tassel::{channel, scope};
/// let (sender, receiver) = channel::unbounded();
/// let sum = scope(|s| {
///     s.spawn(move || Ok((1..=3).try_for_each(|n| channel::send(&sender, n))?));
///     let mut sum = 0;
///     for number in channel::iter(&receiver) {
///         sum += number?;
///     }
///     Ok(sum)
/// })?;
/// assert_eq!(sum, 6);
/// # Ok::<(), tassel::ErrorGroup>(())
/// ```
#[must_use]
#[track_caller]
pub fn iter<T>(receiver: &Receiver<T>) -> Iter<'_, T> {
    Iter { receiver, place: Location::caller(), is_over: false }
}

/// The values that a channel gives: see [`iter`].
pub struct Iter<'r, T> {
    receiver: &'r Receiver<T>,
    place: &'static Location<'static>,
    is_over: bool,
}

impl<T> Iterator for Iter<'_, T> {
    type Item = Result<T, Cancelled>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let received = match recv_at(self.receiver, || None, self.place) {
            Ok(value) => return Some(Ok(value)),
            Err(RecvError::Cancelled(stop)) => Some(Err(stop)),
            Err(RecvError::Closed | RecvError::TimedOut) => None,
        };
        self.is_over = true;
        received
    }
}

impl<T> FusedIterator for Iter<'_, T> {}

impl<T> fmt::Debug for Iter<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("is_over", &self.is_over).finish_non_exhaustive()
    }
}

/// Tells why nothing was received.
///
/// Pass it on with `?`: a [`RecvError::Cancelled`] is to the scope the [`Cancelled`] that it holds, and reads like it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum RecvError {
    /// The channel is empty, and all senders are gone.
    Closed,
    /// The code that receives is to stop.
    Cancelled(Cancelled),
    /// No value came in time: of [`recv_timeout`] and [`recv_deadline`] only.
    TimedOut,
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RecvError::Closed => f.write_str("receiving on a channel that is empty and has no senders"),
            RecvError::Cancelled(stop) => stop.fmt(f),
            RecvError::TimedOut => f.write_str("receiving timed out"),
        }
    }
}

impl Error for RecvError {
    /// None, as of the [`Cancelled`] whose text it has.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            RecvError::Cancelled(stop) => stop.source(),
            RecvError::Closed | RecvError::TimedOut => None,
        }
    }
}

/// Tells why a value was not sent, and gives it back.
///
/// Pass it on with `?`: a [`SendError::Cancelled`] is to the scope the [`Cancelled`] that it holds, and reads like it. Where
/// the value cannot be in an error, because it borrows or is not `Sync`, drop it first:
/// `send(&sender, value).map_err(SendError::without_value)?`.
#[derive(Clone)]
#[non_exhaustive]
pub enum SendError<T> {
    /// All receivers are gone.
    Closed(T),
    /// The code that sends is to stop.
    Cancelled(T, Cancelled),
    /// There was no room in time: of [`send_timeout`] and [`send_deadline`] only.
    TimedOut(T),
}

impl<T> SendError<T> {
    /// Returns the value.
    pub fn into_value(self) -> T {
        match self {
            SendError::Closed(value) | SendError::Cancelled(value, _) | SendError::TimedOut(value) => value,
        }
    }

    /// Drops the value, and keeps why it was not sent.
    ///
    /// # Examples
    ///
    /// ```
    /// use tassel::channel::{self, SendError};
    /// fn hand_on<'t>(words: &channel::Sender<&'t str>, text: &'t str) -> tassel::Result<()> {
    ///     Ok(channel::send(words, text).map_err(SendError::without_value)?)
    /// }
    /// let (words, _) = channel::unbounded(); // nobody receives
    /// assert!(hand_on(&words, "a").is_err());
    /// ```
    #[must_use]
    pub fn without_value(self) -> SendError<()> {
        match self {
            SendError::Closed(_) => SendError::Closed(()),
            SendError::Cancelled(_, stop) => SendError::Cancelled((), stop),
            SendError::TimedOut(_) => SendError::TimedOut(()),
        }
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Closed(_) => f.write_str("Closed(..)"),
            SendError::Cancelled(_, stop) => write!(f, "Cancelled(.., {stop:?})"),
            SendError::TimedOut(_) => f.write_str("TimedOut(..)"),
        }
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SendError::Closed(_) => f.write_str("sending on a channel that has no receivers"),
            SendError::Cancelled(_, stop) => stop.fmt(f),
            SendError::TimedOut(_) => f.write_str("sending timed out"),
        }
    }
}

impl<T> Error for SendError<T> {
    /// None, as of the [`Cancelled`] whose text it has.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            SendError::Cancelled(_, stop) => stop.source(),
            SendError::Closed(_) | SendError::TimedOut(_) => None,
        }
    }
}

/// What is to be done with a channel.
trait Operation<'c> {
    type Done;

    /// Does it, if it needs no waiting for, or was done already while the thread slept.
    fn attempt(&mut self) -> Option<Self::Done>;

    fn capacity(&self) -> Option<usize>;

    fn enter<'s>(&self, select: &mut Select<'s>)
    where
        'c: 's;

    /// Does what the thread has slept for.
    fn complete(&mut self, selected: SelectedOperation<'_>);
}

/// A thread that waits until that is done.
struct Waiting<O>(O);

impl<'c, O: Operation<'c>> Waiting<O> {
    /// Returns when it is done. The caller has looked at the place, and has tried.
    fn wait(
        &mut self,
        activity: Activity,
        until: Option<Instant>,
        place: &'static Location<'static>,
    ) -> Result<O::Done, End> {
        if let Some(done) = self.spin() {
            return done;
        }
        let call = Call { activity, place, on: None, ends: Wait::Open };
        with_chair(|chair| wait::wait_for(chair, &call, until, self))
    }

    /// Tries as often as crossbeam's own calls do before they sleep, and sees a stop meanwhile.
    fn spin(&mut self) -> Option<Result<O::Done, End>> {
        // In a virtual run nobody else moves meanwhile.
        if self.is_for_meeting() || current::clock().run().is_some() {
            return None;
        }
        let backoff = Backoff::new();
        while !backoff.is_completed() {
            backoff.snooze();
            if let Some(done) = self.0.attempt() {
                return Some(Ok(done));
            }
            if let Err(stop) = current::check() {
                return Some(Err(End::Stopped(stop)));
            }
        }
        None
    }

    /// Sleeps until the channel is ready for it, or a message is there, or `until`.
    fn sleep_in(&mut self, messages: &Receiver<()>, asleep: Option<&Sender<()>>, until: Option<Instant>) {
        // What it has first is registered first, and taken first.
        let mut select = Select::new_biased();
        self.0.enter(&mut select);
        if let Some(asleep) = asleep {
            select.send(asleep);
        }
        let poked = select.recv(messages);
        let selected = match until {
            Some(until) => select.select_deadline(until),
            None => Ok(select.select()),
        };
        match selected {
            Ok(selected) if selected.index() == poked => drop(selected.recv(messages)),
            Ok(selected) => self.0.complete(selected),
            Err(_) => {} // its time is over
        }
    }
}

impl<'c, O: Operation<'c>> Awaited<O::Done> for Waiting<O> {
    fn look(&mut self, _: &Arc<Seat>) -> Option<O::Done> {
        self.0.attempt()
    }

    fn channel(&mut self) -> Option<&mut dyn Channel> {
        Some(self)
    }
}

impl<'c, O: Operation<'c>> Channel for Waiting<O> {
    fn sleep(&mut self, mailbox: &Mailbox, until: Option<Instant>) {
        self.sleep_in(mailbox.messages(), None, until);
    }

    fn is_for_meeting(&self) -> bool {
        self.0.capacity() == Some(0)
    }

    fn meet(&mut self, meeting: &Meeting) {
        self.sleep_in(&meeting.wake, Some(&meeting.asleep), None);
    }
}

struct Receiving<'c, T> {
    receiver: &'c Receiver<T>,
    /// What came while the thread slept: a value, or that none will.
    got: Option<Result<T, channel::RecvError>>,
}

impl<'c, T> Operation<'c> for Receiving<'c, T> {
    type Done = Result<T, channel::RecvError>;

    fn attempt(&mut self) -> Option<Self::Done> {
        if let Some(got) = self.got.take() {
            return Some(got);
        }
        match self.receiver.try_recv() {
            Ok(value) => Some(Ok(value)),
            Err(TryRecvError::Disconnected) => Some(Err(channel::RecvError)),
            Err(TryRecvError::Empty) => None,
        }
    }

    fn capacity(&self) -> Option<usize> {
        self.receiver.capacity()
    }

    fn enter<'s>(&self, select: &mut Select<'s>)
    where
        'c: 's,
    {
        select.recv(self.receiver);
    }

    fn complete(&mut self, selected: SelectedOperation<'_>) {
        self.got = Some(selected.recv(self.receiver));
    }
}

struct Sending<'c, T> {
    sender: &'c Sender<T>,
    /// None once it is sent.
    value: Option<T>,
    is_closed: bool,
}

impl<'c, T> Operation<'c> for Sending<'c, T> {
    type Done = ();

    fn attempt(&mut self) -> Option<()> {
        if self.is_closed {
            return Some(());
        }
        let Some(value) = self.value.take() else { return Some(()) };
        match self.sender.try_send(value) {
            Ok(()) => return Some(()),
            Err(TrySendError::Full(value)) => self.value = Some(value),
            Err(TrySendError::Disconnected(value)) => (self.value, self.is_closed) = (Some(value), true),
        }
        self.is_closed.then_some(())
    }

    fn capacity(&self) -> Option<usize> {
        self.sender.capacity()
    }

    fn enter<'s>(&self, select: &mut Select<'s>)
    where
        'c: 's,
    {
        select.send(self.sender);
    }

    fn complete(&mut self, selected: SelectedOperation<'_>) {
        let Some(value) = self.value.take() else { unreachable!("nobody sleeps once it is sent") };
        if let Err(channel::SendError(value)) = selected.send(self.sender, value) {
            (self.value, self.is_closed) = (Some(value), true);
        }
    }
}
