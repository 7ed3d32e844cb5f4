//! Owns the levels of `reasoning.effort`: which one a server is sent that does not take the client's. It must not know
//! servers.

use std::borrow::Cow;

/// From the least to the most; the last is Codex's own.
const LEVELS: [&str; 8] = ["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"];

/// What a client means by that: a level in small letters, and any other word as it is.
pub fn level(asked: &str) -> Cow<'_, str> {
    let asked = asked.trim();
    let small = asked.to_ascii_lowercase();
    if LEVELS.contains(&&*small) { Cow::Owned(small) } else { Cow::Borrowed(asked) }
}

/// The level to send for `asked`: itself where it is taken, else the nearest, the higher of two equally near. `none` is
/// no degree of thinking: it stands for no other level, and the least stands for it. A word that is no level goes as it
/// is, since some chat templates have their own. `None`: nothing that is taken says anything like it.
pub fn nearest<'a>(asked: &'a str, taken: &'a [impl AsRef<str>]) -> Option<&'a str> {
    let mut taken = taken.iter().map(AsRef::as_ref);
    if taken.clone().any(|level| level == asked) {
        return Some(asked);
    }
    let rank = |level: &str| LEVELS.iter().position(|known| *known == level);
    let Some(wanted) = rank(asked) else { return taken.any(|level| level != "none").then_some(asked) };
    let degrees =
        taken.filter_map(|level| rank(level).map(|rank| (rank, level))).filter(|(rank, _)| *rank > 0);
    degrees.min_by_key(|(rank, _)| (rank.abs_diff(wanted), std::cmp::Reverse(*rank))).map(|(_, level)| level)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_level_stands_for_one_that_is_not_taken() {
        let three = ["none", "low", "medium", "high"];
        for (asked, taken, want) in [
            ("medium", &three[..], Some("medium")),
            ("none", &three, Some("none")),
            ("minimal", &three, Some("low")),
            ("xhigh", &three, Some("high")),
            ("ultra", &three, Some("high")),
            ("ultra", &["high", "max"], Some("max")),
            ("xhigh", &["high", "max"], Some("max")),
            ("medium", &["low", "high"], Some("high")),
            ("none", &["low", "high"], Some("low")),
            // no degree of thinking is to be had
            ("high", &["none"], None),
            ("high", &[], None),
            // a template's own word
            ("deep", &three, Some("deep")),
            ("deep", &["none"], None),
        ] {
            assert_eq!(nearest(asked, taken), want, "{asked} of {taken:?}");
        }
    }
}
