//! What a person sees: chapters, sentences, figures with their limits, and one line that moves.
//!
//! On a terminal the moving line is rewritten in place; elsewhere it is printed now and then,
//! so that a log stays readable. A closed pipe is no error.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use tokio::time::Instant;

/// Where the moving line cannot be rewritten it is printed this often.
const BETWEEN_LINES: Duration = Duration::from_secs(3);
/// Longer lines would wrap and could not be rewritten.
const LINE_MAX: usize = 110;

const TITLE: Style = AnsiColor::Cyan.on_default().bold();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const FAINT: Style = Style::new().dimmed();

#[derive(Debug)]
struct State {
    chapters: u32,
    /// The moving line stands on the terminal's last line.
    moving: bool,
    last: Option<Instant>,
}

/// Standard output, as the demo speaks.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    begun: Instant,
    state: Mutex<State>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        Self {
            terminal: std::io::stdout().is_terminal(),
            begun: Instant::now(),
            state: Mutex::new(State {
                chapters: 0,
                moving: false,
                last: None,
            }),
        }
    }

    /// Begins a step of the story.
    pub(crate) fn chapter(&self, title: &str) {
        let mut state = self.state();
        state.chapters += 1;
        let at = self.begun.elapsed().as_secs();
        let number = state.chapters;
        let line = format!("\n{TITLE}{number:>2}  {title}{TITLE:#}  {FAINT}{at} s{FAINT:#}");
        self.line(&mut state, &line);
    }

    /// Says what is happening.
    pub(crate) fn say(&self, text: &str) {
        self.line(&mut self.state(), &format!("    {text}"));
    }

    /// A figure, and the limit that it was held against.
    pub(crate) fn figure(&self, name: &str, value: &str, limit: &str) {
        let limit = if limit.is_empty() {
            String::new()
        } else {
            format!("  {FAINT}{limit}{FAINT:#}")
        };
        self.line(&mut self.state(), &format!("    {name:<22} {value}{limit}"));
    }

    /// Something that was to be shown was shown.
    pub(crate) fn good(&self, text: &str) {
        self.line(&mut self.state(), &format!("    {GOOD}ok{GOOD:#}  {text}"));
    }

    /// Something that stands in the way, or broke.
    pub(crate) fn bad(&self, text: &str) {
        self.line(&mut self.state(), &format!("    {BAD}!!{BAD:#}  {text}"));
    }

    /// Text as it is.
    pub(crate) fn plain(&self, text: &str) {
        self.line(&mut self.state(), text);
    }

    /// The moving line.
    pub(crate) fn progress(&self, text: &str) {
        let mut state = self.state();
        let text: String = text.chars().take(LINE_MAX).collect();
        if self.terminal {
            state.moving = true;
            self.write(&format!("\r\x1b[2K    {FAINT}{text}{FAINT:#}"));
        } else if state
            .last
            .is_none_or(|last| last.elapsed() >= BETWEEN_LINES)
        {
            state.last = Some(Instant::now());
            self.write(&format!("    .. {text}\n"));
        }
    }

    fn line(&self, state: &mut MutexGuard<'_, State>, text: &str) {
        let clear = if state.moving { "\r\x1b[2K" } else { "" };
        state.moving = false;
        // A pause in the story starts the moving line anew.
        state.last = Some(Instant::now());
        self.write(&format!("{clear}{text}\n"));
    }

    fn write(&self, text: &str) {
        let mut out = anstream::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
