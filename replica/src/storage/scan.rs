//! Pure: the bounds of a scan, and pages cut from an ordered run of records.
//!
//! Guarantees that a page holds at most the requested number of pairs and about `SCAN_BYTES_MAX`
//! bytes, that it ends when about `SCAN_READ_BYTES_MAX` bytes were read for it, and that `next` is
//! where the following page begins.

use bytes::Bytes;
use kvorum_protocol::data::{Key, Value};
use kvorum_protocol::limits::{SCAN_BYTES_MAX, SCAN_PAIRS_MAX, SCAN_READ_BYTES_MAX};
use kvorum_protocol::message::{Page, Pair, Scan};

use crate::state::machine::Record;

/// Returns the first key of a scan.
#[must_use]
pub fn first(scan: &Scan) -> &[u8] {
    scan.from.as_slice().max(scan.prefix.as_slice())
}

/// Returns the key before which a scan ends; `None` when it is not bounded.
#[must_use]
pub fn end(scan: &Scan) -> Option<Vec<u8>> {
    let prefix_end = Key::prefix_end(&scan.prefix).map(|key| key.0.to_vec());
    match (prefix_end, scan.until.as_slice()) {
        (bound, []) => bound,
        (Some(bound), until) => Some(bound.min(until.to_vec())),
        (None, until) => Some(until.to_vec()),
    }
}

/// Cuts a page from a scan's records, which are in order from its first key.
pub fn page(scan: &Scan, records: impl Iterator<Item = (Bytes, Record)>, index: u64) -> Page {
    let most = match scan.limit {
        0 => SCAN_PAIRS_MAX,
        limit => limit.min(SCAN_PAIRS_MAX),
    };
    let mut page = Page { pairs: Vec::new(), next: None, index };
    let (mut bytes, mut read) = (0, 0);
    for (key, record) in records {
        let is_long = bytes >= SCAN_BYTES_MAX || read >= SCAN_READ_BYTES_MAX;
        if page.pairs.len() == most as usize || is_long {
            page.next = Some(Key(key));
            break;
        }
        read += key.len() + record.value.len();
        let value = if scan.keys_only { Bytes::new() } else { record.value };
        bytes += key.len() + value.len();
        page.pairs.push(Pair { key: Key(key), value: Value(value), revision: record.revision });
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_protocol::message::Consistency;

    fn scan(prefix: &str, from: &str, until: &str, limit: u32) -> Scan {
        Scan {
            prefix: prefix.into(),
            from: from.into(),
            until: until.into(),
            limit,
            keys_only: false,
            consistency: Consistency::Linearizable,
        }
    }

    #[test]
    fn bounds_are_the_narrower_of_prefix_and_range() {
        let cases = [
            (scan("", "", "", 0), "", None),
            (scan("a", "", "", 0), "a", Some("b")),
            (scan("a", "ab", "", 0), "ab", Some("b")),
            (scan("a", "A", "", 0), "a", Some("b")),
            (scan("a", "", "ac", 0), "a", Some("ac")),
            (scan("a", "", "z", 0), "a", Some("b")),
            (scan("", "b", "c", 0), "b", Some("c")),
        ];
        for (scan, from, until) in cases {
            assert_eq!(first(&scan), from.as_bytes(), "{scan:?}");
            assert_eq!(end(&scan), until.map(|until| until.as_bytes().to_vec()), "{scan:?}");
        }
    }

    #[test]
    fn pages_join_to_the_whole() {
        let records = |from: &Bytes| {
            let from = from.clone();
            (0..10u64)
                .map(|n| {
                    (Bytes::from(format!("k{n}")), Record { revision: n, value: Bytes::new() })
                })
                .filter(move |(key, _)| *key >= from)
        };
        let mut from = Bytes::new();
        let mut keys = Vec::new();
        loop {
            let page = page(&scan("", "", "", 3), records(&from), 1);
            assert!(page.pairs.len() <= 3);
            keys.extend(page.pairs.into_iter().map(|pair| pair.revision));
            match page.next {
                Some(next) => from = next.0,
                None => break,
            }
        }
        assert_eq!(keys, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn a_page_ends_by_bytes_too() {
        let value = Bytes::from(vec![0; SCAN_BYTES_MAX]);
        let records =
            ["a", "b"].map(|key| (Bytes::from(key), Record { revision: 1, value: value.clone() }));
        let page = page(&scan("", "", "", 0), records.into_iter(), 1);
        assert_eq!(page.pairs.len(), 1);
        assert_eq!(page.next, Some(Key::from("b")));
    }

    /// The values have to be read, though they are not returned.
    #[test]
    fn a_page_of_keys_only_ends_by_what_was_read() {
        let scan = Scan { keys_only: true, ..scan("", "", "", 0) };
        let (mut read, value) = (0, Bytes::from(vec![0; SCAN_BYTES_MAX]));
        let records = (0..1000).map(|n| {
            read += 1;
            (Bytes::from(format!("k{n:03}")), Record { revision: 1, value: value.clone() })
        });
        let page = page(&scan, records, 1);
        assert_eq!(page.pairs.len(), SCAN_READ_BYTES_MAX / SCAN_BYTES_MAX);
        assert_eq!(page.next, Some(Key::from("k008")));
        assert!(read <= page.pairs.len() + 1, "{read} were read");
    }
}
