//! Layer 0: work that may wait for a disk, kept off the tasks that carry media.

use tokio::task::JoinError;

/// Runs `work` on a thread that may block; an error means that it panicked or that the runtime ends.
///
/// In a simulation ([`inline`]) it runs at once: what waits for a thread of the machine would make
/// one run differ from the next.
pub async fn run<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    #[cfg(test)]
    if INLINE.get() {
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}

#[cfg(test)]
thread_local! {
    static INLINE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// From now on this thread's runtime does such work at once.
#[cfg(all(test, feature = "receiver"))]
pub fn inline() {
    INLINE.set(true);
}
