//! Wakes the reconciler when the host changes behind its back.
