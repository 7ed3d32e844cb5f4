//! Owns the levels of `reasoning.effort`: which level is sent to a server that does not accept the requested one. It
//! must not know servers.

use std::borrow::Cow;

/// From least to most. The last one is Codex's.
const LEVELS: [&str; 8] = ["none", "minimal", "low", "medium", "high", "xhigh", "max", "ultra"];

/// Normalises a level to lower case; any other word is returned unchanged.
pub fn level(asked: &str) -> Cow<'_, str> {
    let asked = asked.trim();
    let small = asked.to_ascii_lowercase();
    if LEVELS.contains(&&*small) { Cow::Owned(small) } else { Cow::Borrowed(asked) }
}

/// The accepted level closest to `asked`; of two equally close, the higher one. `none` means no thinking at all, so it
/// replaces no other level, and the lowest accepted level replaces it. Words that are not levels are sent unchanged,
/// since some chat templates define their own. `None`: no accepted level comes close.
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
    fn the_closest_accepted_level_is_sent() {
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
            // no level other than `none` is accepted
            ("high", &["none"], None),
            ("high", &[], None),
            // a word defined by a template
            ("deep", &three, Some("deep")),
            ("deep", &["none"], None),
        ] {
            assert_eq!(nearest(asked, taken), want, "{asked} of {taken:?}");
        }
    }
}
