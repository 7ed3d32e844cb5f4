//! Owns what the OpenAI libraries are told: two variables, and a few lines of code. It must not read a key.

use super::Proxy;
use super::setting::Setting;

/// What they are told; there is no file.
pub fn setting(proxy: &Proxy) -> Setting {
    let (base, model) = (&proxy.base_url, &proxy.model().id);
    let key = proxy.key_env.as_ref().map_or("unused".to_owned(), |variable| format!("\"${variable}\""));
    let model = serde_json::Value::from(model.as_str());
    let text = format!(
        "export OPENAI_BASE_URL={base}\n\
         export OPENAI_API_KEY={key}\n\
         \n\
         # Python: pip install openai\n\
         from openai import OpenAI\n\
         client = OpenAI()\n\
         print(client.responses.create(model={model}, input=\"Say hello.\").output_text)\n\
         \n\
         // JavaScript: npm install openai\n\
         import OpenAI from \"openai\";\n\
         const client = new OpenAI();\n\
         console.log((await client.responses.create({{ model: {model}, input: \"Say hello.\" }})).output_text);\n"
    );
    Setting { file: None, merge: Box::new(move |_| Ok(text.clone())), notes: proxy.notes(|_| String::new()) }
}
