//! Decides what to do: a pure function.
