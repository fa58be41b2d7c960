//! Whether the terminal may have colours.

use super::env::{Environment, filled};

/// Whether lines on a terminal may have colours: not with `NO_COLOR`, nor where `TERM` names a terminal without any.
#[must_use]
pub fn wants_colour(env: &dyn Environment) -> bool {
    let plain = filled(env, "TERM").is_none_or(|terminal| terminal == "dumb");
    !plain && filled(env, "NO_COLOR").is_none()
}

#[cfg(test)]
mod tests {
    use super::super::MapEnvironment;
    use super::*;

    #[test]
    fn colours_need_a_terminal_that_has_them_and_nobody_who_refuses_them() {
        for (term, no_color, wanted) in
            [("xterm-256color", "", true), ("xterm", "1", false), ("dumb", "", false), ("", "", false)]
        {
            let env = MapEnvironment::from([("TERM", term), ("NO_COLOR", no_color)]);
            assert_eq!(wants_colour(&env), wanted, "{term} {no_color}");
        }
    }
}
