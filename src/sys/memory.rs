//! How the allocator gives memory back to the system.

/// Buffers of this size and above are mapped one by one, bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const LARGE: libc::c_int = 64 * 1024;

/// Large buffers, as those of a listing, go back to the system when they are freed. glibc's own threshold grows
/// with each that is freed, so that what a listing once took would stay in the heaps of the threads that built it
/// (mallopt(3)). Other allocators are left as they are.
pub fn return_large_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes two numbers; nothing is passed by reference.
    unsafe {
        // 0 where it is not taken: then all is as it was.
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives back what is free in the heaps, after something that took much of it: glibc keeps it otherwise (malloc_trim(3)).
/// That takes milliseconds.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes a number; nothing is passed by reference.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::process::Command;

    use super::*;

    /// In a process of its own: what other tests have freed is room in the heaps, which buffers may take.
    #[test]
    fn large_buffers_are_mapped_whatever_was_freed_before() {
        const INNER: &str = "MEMORY_TEST_ALONE";
        const MANY: usize = 1000;
        if std::env::var_os(INNER).is_none() {
            let mut command = Command::new(std::env::current_exe().unwrap());
            let name = "sys::memory::tests::large_buffers_are_mapped_whatever_was_freed_before";
            let output = command.args(["--exact", name]).env(INNER, "1").output();
            let said = String::from_utf8(output.unwrap().stdout).unwrap();
            assert!(said.contains("1 passed"), "{said}");
            return;
        }
        return_large_buffers();
        drop(vec![1u8; 16 << 20]);
        let buffers: Vec<_> = (0..MANY).map(|_| vec![1u8; LARGE as usize]).collect();
        // SAFETY: returns numbers.
        let mapped = unsafe { libc::mallinfo2() }.hblks;
        // Some may find room in what a heap already has.
        assert!(mapped > MANY / 2, "{mapped} buffers are mapped");
        drop(buffers);
    }
}
