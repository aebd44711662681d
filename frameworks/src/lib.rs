//! Examples of event streams in frameworks whose bodies are streams of bytes, and their tests.
