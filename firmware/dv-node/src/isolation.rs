//! One cluster's own threads, so that what happens to one cluster stays there (decision 0231).
//!
//! Each cluster has a thread for its loop and a runtime for everything beside it, and shares nothing with other clusters
//! but the process. Whatever of it panics, in the loop or beside it, ends all of that cluster at once: a cluster of which
//! a part is missing would go on as if nothing was wrong. The daemon then starts it anew.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

/// Network and other work beside the loop. The loop has the thread's own time.
const WORKERS: usize = 1;
/// Combining and checking signatures, reading and writing files.
const BLOCKING: usize = 4;
/// Work beside the loop that has not ended by then is left to itself.
const SHUTDOWN: Duration = Duration::from_secs(5);

thread_local! {
    /// The alarm of the cluster that this thread works for.
    static ALARM: RefCell<Option<Arc<Alarm>>> = const { RefCell::new(None) };
}

/// Rings when anything of a cluster panics.
#[derive(Debug, Default)]
struct Alarm {
    what: Mutex<Option<String>>,
    rung: Notify,
}

impl Alarm {
    fn ring(&self, info: &PanicHookInfo<'_>) {
        let place = info.location().map(|place| format!(" at {}:{}", place.file(), place.line()));
        let what = format!("{}{}", text_of(info.payload()), place.unwrap_or_default());
        self.what.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        self.rung.notify_one();
    }

    fn what(&self) -> Option<String> {
        self.what.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How the work of a cluster ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<T> {
    /// As it is meant to.
    Ended(T),
    /// Something of it panicked.
    Crashed(String),
}

/// Runs `work` in threads of its own. The answer comes when nothing of it runs any more.
pub fn start<T, F>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<oneshot::Receiver<Outcome<T>>>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    listen_for_panics();
    let alarm = Arc::new(Alarm::default());
    let on_start = Arc::clone(&alarm);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .max_blocking_threads(BLOCKING)
        .thread_name(name)
        .on_thread_start(move || ALARM.set(Some(Arc::clone(&on_start))))
        .enable_all()
        .build()?;
    let (to, answer) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        ALARM.set(Some(Arc::clone(&alarm)));
        let outcome = std::panic::catch_unwind(AssertUnwindSafe(|| {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = alarm.rung.notified() => None,
                    ended = work() => Some(ended),
                }
            })
        }));
        runtime.shutdown_timeout(SHUTDOWN);
        let outcome = match outcome {
            Ok(Some(ended)) => Outcome::Ended(ended),
            Ok(None) | Err(_) => Outcome::Crashed(alarm.what().unwrap_or_default()),
        };
        // Nobody waits when the process ends.
        drop(to.send(outcome));
    })?;
    Ok(answer)
}

/// Panics elsewhere than in a cluster end the process, and systemd starts it anew. Called once, by the program.
pub fn end_process_on_other_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        if ALARM.try_with(|alarm| alarm.borrow().is_none()).unwrap_or(true) {
            std::process::abort();
        }
    }));
}

fn listen_for_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let alarm = ALARM.try_with(|alarm| alarm.borrow().clone()).ok().flatten();
            if let Some(alarm) = alarm {
                alarm.ring(info);
            }
            before(info);
        }));
    });
}

fn text_of(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without words")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_any_part_ends_all_of_one_and_nothing_of_another() {
        type Work = fn() -> std::pin::Pin<Box<dyn Future<Output = ()>>>;
        let in_the_loop: Work = || Box::pin(async { panic!("in the loop") });
        let in_a_task: Work = || {
            Box::pin(async {
                drop(tokio::spawn(async { panic!("in a task") }));
                std::future::pending::<()>().await;
            })
        };
        let in_blocking_work: Work = || {
            Box::pin(async {
                drop(tokio::task::spawn_blocking(|| panic!("in blocking work")));
                std::future::pending::<()>().await;
            })
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let other = start("other", || async { stopped.await.is_ok() }).unwrap();
        for (work, what) in
            [(in_the_loop, "in the loop"), (in_a_task, "in a task"), (in_blocking_work, "work")]
        {
            match start("one", work).unwrap().await.unwrap() {
                Outcome::Crashed(text) => {
                    assert!(text.contains(what) && text.contains("isolation.rs"), "{text}")
                }
                Outcome::Ended(()) => panic!("it ended"),
            }
        }
        stop.send(()).unwrap();
        assert_eq!(other.await.unwrap(), Outcome::Ended(true));
    }

    #[tokio::test]
    async fn a_thread_that_is_stuck_holds_up_no_other_one() {
        let (release, held) = std::sync::mpsc::channel::<()>();
        let stuck = start("stuck", move || async move { held.recv().is_ok() }).unwrap();
        let other = start("other", || async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            tokio::task::block_in_place(|| 7)
        });
        assert_eq!(other.unwrap().await.unwrap(), Outcome::Ended(7));
        release.send(()).unwrap();
        assert_eq!(stuck.await.unwrap(), Outcome::Ended(true));
    }
}
