//! What Hugging Face's programs are told by their environment variables.

use std::ffi::OsString;
use std::path::PathBuf;

use hf_hub::Cache;

/// Where downloads are kept, with which token they are made, and whether there are any.
pub(super) struct Environment {
    pub(super) cache: Cache,
    pub(super) token: Option<String>,
    /// Whether the network is not to be used.
    pub(super) is_offline: bool,
}

impl Environment {
    pub(super) fn of_process() -> Self {
        Self::of(|name| std::env::var_os(name))
    }

    /// That of variables of these values: `HF_HUB_CACHE`, or `hub` in `HF_HOME`; `HF_TOKEN`, or the file `HF_TOKEN_PATH`, or `token` in `HF_HOME`, where
    /// `hf auth login` writes it; `HF_HUB_OFFLINE`.
    fn of(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let given = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| given(name).map(PathBuf::from);
        let home = path("HF_HOME");
        let in_home = || match &home {
            Some(home) => Cache::new(home.join("hub")),
            None => Cache::default(),
        };
        let cache = path("HF_HUB_CACHE").map_or_else(in_home, Cache::new);
        let of_file = || {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| in_home().token_path());
            std::fs::read_to_string(file).ok()
        };
        let token = given("HF_TOKEN")
            .and_then(|token| token.into_string().ok())
            .or_else(of_file);
        let token = token.map(|token| token.trim().to_owned());
        let is_on =
            |value: OsString| ["1", "on", "yes", "true"].contains(&&*value.to_string_lossy().to_ascii_lowercase());
        Self {
            cache,
            token: token.filter(|token| !token.is_empty()),
            is_offline: given("HF_HUB_OFFLINE").is_some_and(is_on),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With variables of these values.
    fn of(variables: &[(&str, &str)]) -> Environment {
        Environment::of(|name| {
            let known = variables.iter().find(|(known, _)| *known == name);
            known.map(|(_, value)| value.into())
        })
    }

    #[test]
    fn the_nearer_variable_decides() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("token"), "of home\n").unwrap();
        let elsewhere = home.path().join("elsewhere");
        std::fs::write(&elsewhere, "of a path").unwrap();
        let (home, elsewhere) = (home.path().to_str().unwrap(), elsewhere.to_str().unwrap());
        let found = of(&[("HF_HOME", home), ("HF_TOKEN", "")]);
        assert_eq!(found.cache.path(), &PathBuf::from(home).join("hub"));
        assert_eq!((found.token.as_deref(), found.is_offline), (Some("of home"), false));
        // the token stays where the cache has another place
        let found = of(&[
            ("HF_HOME", home),
            ("HF_HUB_CACHE", "/cache"),
            ("HF_HUB_OFFLINE", "TRUE"),
        ]);
        assert_eq!(found.cache.path(), &PathBuf::from("/cache"));
        assert_eq!((found.token.as_deref(), found.is_offline), (Some("of home"), true));
        let found = of(&[("HF_HOME", home), ("HF_TOKEN_PATH", elsewhere), ("HF_HUB_OFFLINE", "0")]);
        assert_eq!((found.token.as_deref(), found.is_offline), (Some("of a path"), false));
        let found = of(&[("HF_HOME", home), ("HF_TOKEN_PATH", elsewhere), ("HF_TOKEN", " given ")]);
        assert_eq!(found.token.as_deref(), Some("given"));
    }
}
