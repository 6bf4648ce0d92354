//! Tests that need network namespaces of their own.
