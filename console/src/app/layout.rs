//! Pure: the part of the screen layout that decides which data the console requests.

/// The minimum width for two columns, in which case the keys are shown.
pub const TWO_COLUMNS: u16 = 120;
