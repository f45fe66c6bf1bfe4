//! Figures as an on-call engineer reads them: `2.5 s`, `18,204`, `0.016%`.

use std::time::Duration;

/// A duration in the two largest units that matter.
pub(crate) fn duration(value: Duration) -> String {
    let ms = value.as_millis();
    let s = value.as_secs();
    match s {
        _ if ms < 1_000 => format!("{ms} ms"),
        0..60 if ms.is_multiple_of(1_000) => format!("{s} s"),
        0..60 => format!("{}.{} s", s, (ms % 1_000) / 100),
        60..3_600 => two(s / 60, "min", s % 60, "s"),
        3_600..86_400 => two(s / 3_600, "h", (s % 3_600) / 60, "min"),
        _ => two(s / 86_400, "d", (s % 86_400) / 3_600, "h"),
    }
}

pub(crate) fn millis(ms: u64) -> String {
    duration(Duration::from_millis(ms))
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large} {large_unit}")
    } else {
        format!("{large} {large_unit} {small} {small_unit}")
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

/// A share from 0.0 to 1.0 as a percentage with two figures that count.
pub(crate) fn percent(share: f64) -> String {
    let percent = share * 100.0;
    let text = match percent {
        p if p <= 0.0 => "0".to_owned(),
        p if p < 0.1 => format!("{p:.3}"),
        p if p < 10.0 => format!("{p:.2}"),
        p => format!("{p:.1}"),
    };
    let text = if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.')
    } else {
        &text
    };
    format!("{text}%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_well() {
        for (ms, text) in [
            (0, "0 ms"),
            (250, "250 ms"),
            (2_000, "2 s"),
            (2_540, "2.5 s"),
            (90_000, "1 min 30 s"),
            (600_000, "10 min"),
            (5_400_000, "1 h 30 min"),
            (1_209_600_000, "14 d"),
        ] {
            assert_eq!(millis(ms), text);
        }
        assert_eq!(count(7), "7");
        assert_eq!(count(18_204), "18,204");
        assert_eq!(count(1_000_000), "1,000,000");
        assert_eq!(percent(0.0), "0%");
        assert_eq!(percent(0.000_16), "0.016%");
        assert_eq!(percent(0.001), "0.1%");
        assert_eq!(percent(0.018), "1.8%");
        assert_eq!(percent(1.0), "100%");
    }
}
