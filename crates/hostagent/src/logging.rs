//! Where log lines go: a terminal, journald, or JSON on standard error.
