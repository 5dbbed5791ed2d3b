//! Ctrl-C asks the work to stop at the next step; nothing is left half written.

use std::sync::{
    Once,
    atomic::{AtomicBool, Ordering},
};

static ASKED: AtomicBool = AtomicBool::new(false);
static INSTALLED: Once = Once::new();

/// Catches Ctrl-C from here on. A second one ends the process at once.
pub fn catch() {
    INSTALLED.call_once(|| {
        // Without a handler Ctrl-C ends the process, which leaves no file under a final name either.
        let _ = ctrlc::set_handler(|| {
            if ASKED.swap(true, Ordering::SeqCst) {
                std::process::abort();
            }
        });
    });
}

/// True once Ctrl-C was pressed.
pub fn asked() -> bool {
    ASKED.load(Ordering::SeqCst)
}
