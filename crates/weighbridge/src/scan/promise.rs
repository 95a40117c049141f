//! What a name promises of its file.

/// Extensions, the format they promise, and the formats that keep the promise.
const PROMISES: [(&[&str], &str, &[&str]); 13] = [
    (&["safetensors"], "safetensors", &["safetensors"]),
    (&["gguf", "ggml"], "gguf", &["gguf"]),
    (&["onnx", "ort"], "onnx", &["onnx"]),
    (&["h5", "hdf5"], "hdf5", &["hdf5", "keras"]),
    (&["keras"], "keras", &["keras", "hdf5", "zip"]),
    (&["npy"], "numpy", &["numpy"]),
    (&["npz"], "numpy", &["numpy", "zip"]),
    (
        &["pb", "pbtxt"],
        "tensorflow",
        &["savedmodel", "graphdef", "onnx", "text"],
    ),
    (&["json", "jsonl"], "json", &["json", "text", "jinja"]),
    (
        &[
            "txt", "md", "rst", "csv", "tsv", "yaml", "yml", "xml", "toml", "cfg", "ini", "jinja",
            "jinja2", "j2", "html", "py", "log", "lock",
        ],
        "text",
        &["text", "json", "yaml", "xml", "jinja"],
    ),
    (
        &[
            "png", "jpg", "jpeg", "gif", "webp", "svg", "bmp", "ico", "pdf",
        ],
        "an image",
        &["png", "jpeg", "riff", "text", "xml"],
    ),
    (&["wav", "mp3", "flac", "ogg", "mp4"], "sound", &["riff"]),
    (
        &["pkl", "pickle", "pt", "pth"],
        "pickle",
        &["pickle", "pytorch", "numpy", "zip", "tar"],
    ),
];

/// The promised and the actual format, when `extension` promises another than `format`.
pub(super) fn broken(extension: &str, format: &str) -> Option<(String, String)> {
    if format == "unknown" {
        return None;
    }
    let (_, promised, kept) = PROMISES
        .iter()
        .find(|(extensions, ..)| extensions.contains(&extension))?;
    (!kept.contains(&format)).then(|| ((*promised).to_owned(), format.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_are_kept_or_broken() {
        assert_eq!(broken("pt", "pytorch"), None);
        assert_eq!(broken("pt", "unknown"), None);
        assert_eq!(broken("bin", "pickle"), None);
        assert_eq!(broken("npz", "zip"), None);
        assert_eq!(
            broken("png", "pickle"),
            Some(("an image".into(), "pickle".into()))
        );
        assert_eq!(broken("gguf", "zip"), Some(("gguf".into(), "zip".into())));
    }
}
