//! Due times, attempts and answers.
