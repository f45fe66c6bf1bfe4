//! HTTP/1.1 read strictly, by RFC 9112: what could be taken for two things is an error.

pub(super) type Lines = Vec<(String, String)>;

/// What a strict reader of HTTP/1.1 makes of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub(super) line: String,
    pub(super) fields: Lines,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Lines,
}

/// Why a reader has no request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Not {
    Whole,
    Well(String),
}

/// The bytes that are still to be read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Result<Vec<u8>, Not> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Not::Whole)?;
        self.0 = rest;
        Ok(taken.to_vec())
    }

    fn line(&mut self) -> Result<String, Not> {
        let end = self.0.windows(2).position(|two| two == b"\r\n");
        let text = utf8(&self.take(end.ok_or(Not::Whole)?)?);
        self.take(2)?;
        match text.contains(|letter: char| letter.is_ascii_control() && letter != '\t') {
            true => Err(Not::Well(text)),
            false => Ok(text),
        }
    }

    /// Fields and the empty line behind them.
    fn fields(&mut self) -> Result<Lines, Not> {
        let mut all = Vec::new();
        loop {
            let text = self.line()?;
            if text.is_empty() {
                return Ok(all);
            }
            let Some((name, value)) = text.split_once(':') else {
                return Err(Not::Well(text));
            };
            if name.is_empty() || name.contains([' ', '\t']) {
                return Err(Not::Well(text));
            }
            all.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn chunks(&mut self) -> Result<Vec<u8>, Not> {
        let mut body = Vec::new();
        loop {
            let size = self.line()?;
            let count = usize::from_str_radix(&size, 16).map_err(|_| Not::Well(size))?;
            if count == 0 {
                return Ok(body);
            }
            body.extend(self.take(count)?);
            let end = self.line()?;
            if !end.is_empty() {
                return Err(Not::Well(end));
            }
        }
    }

    pub(super) fn request(&mut self) -> Result<Asked, Not> {
        let line = self.line()?;
        let words: Vec<&str> = line.split(' ').collect();
        let is_target = |target: &str| target.starts_with('/') || target == "*";
        if !matches!(&words[..], [method, target, "HTTP/1.1"] if !method.is_empty() && is_target(target))
        {
            return Err(Not::Well(line));
        }
        let fields = self.fields()?;
        let of = |name: &str| -> Vec<&str> {
            let of = fields.iter().filter(|(one, _)| one == name);
            of.map(|(_, value)| value.as_str()).collect()
        };
        let (mut body, mut trailers) = (Vec::new(), Vec::new());
        match (
            &of("host")[..],
            &of("content-length")[..],
            &of("transfer-encoding")[..],
        ) {
            ([_], [], []) => {}
            ([_], [length], []) => {
                let length = length
                    .parse()
                    .map_err(|_| Not::Well((*length).to_owned()))?;
                body = self.take(length)?;
            }
            ([_], [], ["chunked"]) => {
                body = self.chunks()?;
                trailers = self.fields()?;
            }
            _ => return Err(Not::Well(format!("{line} {fields:?}"))),
        }
        Ok(Asked {
            line,
            fields,
            body,
            trailers,
        })
    }
}

pub(super) fn utf8(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
