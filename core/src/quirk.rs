//! Owns the names of the repairs to the model's calls. Each can be switched off, and each is counted. It must not
//! repair anything.

/// A mistake that models make in calls, and its repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quirk {
    /// Removes a Markdown fence around a patch. Codex: "The first line of the patch must be '*** Begin Patch'".
    PatchFences,
    /// Turns `@@ -1,2 +1,2 @@ f()` into `@@ f()`: apply_patch takes the numbers for context, which it cannot find.
    PatchHunkHeaders,
    /// Finds a called name without the marks, prefixes and white space that models and parsers leave around it: gpt-oss
    /// behind vLLM and Ollama, Gemini.
    CallNames,
    /// Sends arguments once that arrive twice, or after an empty object: Bedrock and Gemini proxies, parsers of vLLM.
    RepeatedArguments,
    /// Unwraps arguments that are JSON text inside a JSON string.
    EncodedArguments,
    /// Replaces the arguments `null` and `[]` by `{}`.
    NullArguments,
    /// Finds the calls in a `tool_calls` that is not a list, or has entries that are not calls.
    CallList,
    /// Sends arguments once whose pieces each repeat all earlier ones: proxies that stream whole states.
    CumulativeArguments,
    /// Unwraps arguments that are a list with one object.
    ListedArguments,
    /// Unwraps arguments in a Markdown code block.
    FencedArguments,
}

/// The number of quirks.
const COUNT: usize = 10;

impl Quirk {
    /// All quirks, in the order of their counts in [`Repaired`].
    pub const ALL: [Quirk; COUNT] = [
        Quirk::PatchFences,
        Quirk::PatchHunkHeaders,
        Quirk::CallNames,
        Quirk::RepeatedArguments,
        Quirk::EncodedArguments,
        Quirk::NullArguments,
        Quirk::CallList,
        Quirk::CumulativeArguments,
        Quirk::ListedArguments,
        Quirk::FencedArguments,
    ];

    /// The name in the configuration and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Quirk::PatchFences => "patch_fences",
            Quirk::PatchHunkHeaders => "patch_hunk_headers",
            Quirk::CallNames => "call_names",
            Quirk::RepeatedArguments => "repeated_arguments",
            Quirk::EncodedArguments => "encoded_arguments",
            Quirk::NullArguments => "null_arguments",
            Quirk::CallList => "call_list",
            Quirk::CumulativeArguments => "cumulative_arguments",
            Quirk::ListedArguments => "listed_arguments",
            Quirk::FencedArguments => "fenced_arguments",
        }
    }
}

/// How often each repair was applied.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Repaired([u64; COUNT]);

impl Repaired {
    /// Counts one repair.
    pub fn count(&mut self, quirk: Quirk) {
        if let Some(count) = self.0.get_mut(quirk as usize) {
            *count += 1;
        }
    }

    /// The repairs that were applied, with their counts.
    pub fn counts(&self) -> impl Iterator<Item = (Quirk, u64)> + use<> {
        Quirk::ALL.into_iter().zip(self.0).filter(|(_, count)| *count > 0)
    }
}

impl std::ops::AddAssign for Repaired {
    fn add_assign(&mut self, other: Repaired) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }
}
