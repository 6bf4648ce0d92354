//! Linux: every system call, and every `unsafe` block, is here.
