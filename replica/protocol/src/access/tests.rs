//! Tests of the names, the ranges and the changes.

use super::*;

fn range(from: &'static str, until: &'static str) -> KeyRange {
    KeyRange { from: from.into(), until: Some(until.into()) }
}

#[test]
fn ranges_are_shown_as_they_are_asked_for() {
    let table = [
        (KeyRange::all(), "all keys"),
        (KeyRange::one(b"a\n"), "a\\n"),
        (KeyRange::prefix(b"app/"), "app/*"),
        (range("a", "c"), "a..c"),
        (KeyRange { from: "a".into(), until: None }, "a.."),
    ];
    for (range, shown) in table {
        assert_eq!(range.to_string(), shown);
    }
}

#[test]
fn what_two_ranges_have_in_common() {
    let (prefix, all) = (KeyRange::prefix(b"b"), KeyRange::all());
    assert_eq!(prefix.clone().within(&all), prefix);
    assert_eq!(all.within(&prefix), prefix);
    assert_eq!(range("a", "bb").within(&prefix), range("b", "bb"));
    assert!(range("a", "b").within(&prefix).is_empty());
}

#[test]
fn a_change_has_names_and_ranges_of_bounded_length() {
    let user = |name: &str| AccessChange::AddUser { user: name.to_owned() }.validate();
    for good in ["a", "app-1", "O.k_@host", &"a".repeat(ACCESS_NAME_BYTES_MAX)] {
        assert_eq!(user(good), Ok(()), "{good}");
    }
    for bad in [
        "",
        "-a",
        ".",
        "..",
        "@",
        "a b",
        "a/b",
        "\u{1b}[1m",
        "é",
        &"a".repeat(ACCESS_NAME_BYTES_MAX + 1),
    ] {
        assert_eq!(user(bad), Err(AccessError::NoName), "{bad}");
    }
    let grant = |range| {
        AccessChange::Grant { role: "r".to_owned(), range, access: Access::Read }.validate()
    };
    let longest = vec![7; KEY_BYTES_MAX];
    for good in [KeyRange::all(), KeyRange::one(&longest), KeyRange::prefix(&longest)] {
        assert_eq!(grant(good), Ok(()));
    }
    let long = vec![7; KEY_BYTES_MAX + 1];
    for bad in [range("b", "a"), range("a", "a"), KeyRange::prefix(&long)] {
        assert_eq!(grant(bad), Err(AccessError::NoRange));
    }
}
