//! Figures as an on-call engineer reads them: `2.5 s`, `18,204`, `0.016%`.

/// A time in the unit that reads best.
pub(crate) fn millis(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 if ms % 1_000 < 100 => format!("{} s", ms / 1_000),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        3_600_000..86_400_000 => format!("{} h {} min", ms / 3_600_000, ms % 3_600_000 / 60_000),
        _ => format!("{} d {} h", ms / 86_400_000, ms % 86_400_000 / 3_600_000),
    }
}

/// A request's time, of microseconds.
pub(crate) fn micros(us: f64) -> String {
    match us {
        us if us < 10_000.0 => format!("{:.1} ms", us / 1e3),
        us if us < 1e6 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}

/// A count with separators of thousands.
pub(crate) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in the unit of 1,024 that reads best.
pub(crate) fn bytes(value: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut unit = 1_024u64;
    for name in UNITS {
        if value / unit < 1_024 || name == UNITS[3] {
            return match value / unit {
                0 => format!("{value} B"),
                whole @ 1..10 => format!("{whole}.{} {name}", value % unit * 10 / unit),
                whole => format!("{} {name}", count(whole)),
            };
        }
        unit *= 1_024;
    }
    count(value)
}

/// `part` of `whole` as a percentage with two figures that count; `-` of nothing.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
pub(crate) fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let percent = part as f64 * 100.0 / whole as f64;
    let text = match percent {
        p if p <= 0.0 => return "0%".to_owned(),
        p if p < 0.1 => format!("{p:.3}"),
        p if p < 10.0 => format!("{p:.2}"),
        p => format!("{p:.1}"),
    };
    format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        for (ms, text) in [
            (250, "250 ms"),
            (2_000, "2 s"),
            (2_540, "2.5 s"),
            (600_000, "10 min"),
            (5_400_000, "1 h 30 min"),
            (1_209_600_000, "14 d 0 h"),
        ] {
            assert_eq!(millis(ms), text);
        }
        for (value, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_536, "1.5 KiB"),
            (20 << 20, "20 MiB"),
            (3 << 40, "3.0 TiB"),
            (u64::MAX, "16,777,215 TiB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(count(1_000_000), "1,000,000");
        assert_eq!(count(999), "999");
        assert_eq!(share(0, 10), "0%");
        assert_eq!(share(3, 0), "-");
        assert_eq!(share(18, 1_000), "1.8%");
        assert_eq!(share(1, 1), "100%");
    }
}
