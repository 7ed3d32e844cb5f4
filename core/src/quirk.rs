//! Owns the names of the repairs that the model's calls get: each can be switched off, and each is counted. It must not
//! repair anything.

/// A habit of models in writing calls, and its repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quirk {
    /// A Markdown fence around a patch is left out. Codex: "The first line of the patch must be '*** Begin Patch'".
    PatchFences,
    /// `@@ -1,2 +1,2 @@ f()` becomes `@@ f()`; apply_patch takes the numbers for context that it cannot find.
    PatchHunkHeaders,
    /// A called name is found without the marks, prefixes and blanks that models and parsers leave around it: gpt-oss
    /// behind vLLM and Ollama, Gemini.
    CallNames,
    /// Arguments that come twice, or behind an empty object, are told once: Bedrock and Gemini kin, parsers of vLLM.
    RepeatedArguments,
    /// Arguments that are a JSON text within a JSON string are unwrapped.
    EncodedArguments,
    /// Arguments `null` and `[]` are none: `{}`.
    NullArguments,
    /// `tool_calls` that is no list, or has entries that are no calls, is read as the calls that it has.
    CallList,
    /// Arguments of which each piece repeats all before it are told once: proxies that stream whole states.
    CumulativeArguments,
    /// Arguments that are a list of one object become that object.
    ListedArguments,
    /// Arguments in a Markdown block of code are taken out of it.
    FencedArguments,
}

/// How many there are.
const COUNT: usize = 10;

impl Quirk {
    /// Every quirk, in the order of their counts.
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

    /// Its name in the configuration and in metrics.
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

/// How often each repair was needed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Repaired([u64; COUNT]);

impl Repaired {
    /// Adds one to the count of a repair.
    pub fn count(&mut self, quirk: Quirk) {
        if let Some(count) = self.0.get_mut(quirk as usize) {
            *count += 1;
        }
    }

    /// Those that were needed.
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
