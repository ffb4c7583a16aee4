//! What the C library does with memory that is freed.

/// Has glibc keep some memory that is freed, for the process as a whole. Each thread's
/// heap gives what is free at its end back to the system from 128 KiB on, as it comes;
/// with batches of 256 KiB that is after nearly each of them, and to have it again,
/// page by page and cleared, took a fifth of the broker's processor time.
///
/// Elsewhere it does nothing.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::keep_freed_memory();
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    /// What may be free at the end of a heap.
    const FREE_BYTES_MAX: i32 = 16 << 20;
    /// What is larger comes from the system each time, and goes back.
    const IN_HEAP_BYTES_MAX: i32 = 4 << 20;

    #[allow(unsafe_code)]
    pub(super) fn keep_freed_memory() {
        for (parameter, value) in [
            (libc::M_TRIM_THRESHOLD, FREE_BYTES_MAX),
            (libc::M_MMAP_THRESHOLD, IN_HEAP_BYTES_MAX),
        ] {
            // SAFETY: it takes two integers, and a lock while it changes a setting.
            let done = unsafe { libc::mallopt(parameter, value) };
            if done == 0 {
                tracing::warn!(parameter, value, "the allocator does not take a setting");
            }
        }
    }
}
