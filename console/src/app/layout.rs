//! Pure: what of the screen decides what the console asks for.

/// The width from which on the screen has two columns, and so shows the keys.
pub const TWO_COLUMNS: u16 = 120;
