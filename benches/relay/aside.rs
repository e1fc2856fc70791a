//! Work that goes on beside what is measured.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// A thread that works until it is asked to stop.
pub struct Aside<T> {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<T>,
}

impl<T: Send + 'static> Aside<T> {
    /// Begins with it. The work ends soon after what it is given says that it is over.
    pub fn start(work: impl FnOnce(&dyn Fn() -> bool) -> T + Send + 'static) -> Aside<T> {
        let is_over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_over);
        let thread = thread::spawn(move || work(&|| told.load(Ordering::Relaxed)));
        Aside { is_over, thread }
    }

    /// What came of it.
    pub fn stop(self) -> Result<T, String> {
        self.is_over.store(true, Ordering::Relaxed);
        let result = self.thread.join();
        result.map_err(|_| "what ran beside the measurement panicked".to_owned())
    }
}
