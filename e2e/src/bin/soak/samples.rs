//! The memory and the open streams over time.

use std::{
    fmt::Write,
    fs, io,
    time::{Duration, Instant},
};

/// Samples of the whole run.
pub struct Samples {
    start: Instant,
    samples: Vec<Sample>,
    /// The maximum memory since the last call of [`take_peak`](Self::take_peak).
    peak: u64,
}

struct Sample {
    seconds: f64,
    memory: u64,
    streams: usize,
}

/// Minimum time between two samples.
const INTERVAL: Duration = Duration::from_secs(1);

/// Maximum number of points of a curve.
const POINTS: usize = 400;

/// Size of the area of the plot.
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 120.0;

impl Samples {
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            // Capacity for a day, so that the memory of the samples does not grow.
            samples: Vec::with_capacity(24 * 60 * 60),
            peak: 0,
        }
    }

    /// Takes a sample, unless the last one is recent.
    ///
    /// # Errors
    ///
    /// Fails if the memory cannot be read from the kernel.
    pub fn take(&mut self, streams: usize) -> io::Result<()> {
        let seconds = self.start.elapsed().as_secs_f64();
        let last = self.samples.last().map_or(-1.0, |sample| sample.seconds);
        if streams == 0 || seconds - last >= INTERVAL.as_secs_f64() {
            let memory = memory()?;
            self.peak = self.peak.max(memory);
            self.samples.push(Sample {
                seconds,
                memory,
                streams,
            });
        }
        Ok(())
    }

    /// Returns the maximum memory since the last call.
    pub fn take_peak(&mut self) -> u64 {
        std::mem::take(&mut self.peak)
    }

    /// Draws the open streams and the memory, one above the other.
    pub fn plot(&self) -> String {
        let streams = self.curve(40.0, "open streams", |sample| sample.streams as f64);
        let memory = self.curve(220.0, "resident memory, MiB", |sample| {
            sample.memory as f64 / f64::from(1 << 20)
        });
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"860\" height=\"370\" font-family=\"sans-serif\" \
             font-size=\"13\">\n<rect width=\"860\" height=\"370\" fill=\"#fff\"/>\n{streams}{memory}</svg>\n"
        )
    }

    /// Draws one curve from zero to its maximum, and the minutes below.
    fn curve(&self, top: f64, title: &str, value: impl Fn(&Sample) -> f64) -> String {
        let most = self.samples.iter().map(&value).fold(1.0, f64::max);
        let end = self.samples.last().map_or(1.0, |sample| sample.seconds);
        let bottom = top + HEIGHT;
        let mut points = String::new();
        let step = self.samples.len().div_ceil(POINTS).max(1);
        for sample in self.samples.iter().step_by(step) {
            let x = 70.0 + WIDTH * sample.seconds / end;
            let y = bottom - HEIGHT * value(sample) / most;
            let _ = write!(points, "{x:.1},{y:.1} ");
        }
        let (right, minutes) = (70.0 + WIDTH, end / 60.0);
        format!(
            "<text x=\"70\" y=\"{}\">{title}</text>\n\
             <text x=\"60\" y=\"{}\" text-anchor=\"end\">{most:.0}</text>\n\
             <text x=\"60\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n\
             <text x=\"{right}\" y=\"{}\" text-anchor=\"end\">{minutes:.0} minutes</text>\n\
             <path d=\"M70,{top} V{bottom} H{right}\" fill=\"none\" stroke=\"#999\"/>\n\
             <polyline points=\"{}\" fill=\"none\" stroke=\"#1f5fd0\"/>\n",
            top - 12.0,
            top + 5.0,
            bottom + 18.0,
            points.trim_end()
        )
    }
}

/// Returns the resident memory of this process in bytes.
fn memory() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes
        .map(|kibibytes| 1024 * kibibytes)
        .ok_or_else(|| io::Error::other("no memory in /proc/self/status"))
}

/// Returns the number of open files of this process.
///
/// # Errors
///
/// Fails if the kernel does not list them.
pub fn open_files() -> io::Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}
