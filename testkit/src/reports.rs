//! Collects the reports of a layer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tower_sse_completion::StreamReport;

/// The reports of a layer. Clones share them.
///
/// ```
/// use testkit::reports::Reports;
/// use tower_sse_completion::SseCompletionLayer;
///
/// let reports = Reports::default();
/// let layer = SseCompletionLayer::new().on_end(reports.observer());
/// assert_eq!(reports.count(), 0);
/// # let _ = layer;
/// ```
#[derive(Debug, Clone, Default)]
pub struct Reports(Arc<Mutex<Vec<StreamReport>>>);

impl Reports {
    /// Returns an observer for `SseCompletionLayer::on_end`.
    pub fn observer(&self) -> impl Fn(&StreamReport) + Clone + Send + Sync + 'static + use<> {
        let reports = self.clone();
        move |report| reports.lock().push(report.clone())
    }

    /// Returns the number of reports so far.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Returns all reports so far.
    pub fn all(&self) -> Vec<StreamReport> {
        self.lock().clone()
    }

    /// Returns the report of the only stream.
    ///
    /// # Panics
    ///
    /// Panics unless exactly one stream has been reported.
    #[track_caller]
    pub fn only(&self) -> StreamReport {
        let reports = self.lock();
        assert_eq!(reports.len(), 1, "every stream is reported once");
        reports[0].clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<StreamReport>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
