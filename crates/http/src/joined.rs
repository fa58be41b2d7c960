//! Sends small answers in one piece. hyper writes head and body as two pieces, which takes the kernel longer than
//! copying them into one takes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Larger answers are not copied: the answer to one event has about 250 bytes.
const BYTES_MAX: usize = 1024;

/// A stream that joins small pieces.
pub(super) struct Joined<S>(pub(super) S);

impl<S: AsyncRead + Unpin> AsyncRead for Joined<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Joined<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = pieces.iter().map(|piece| piece.len()).sum();
        if pieces.len() < 2 || length > BYTES_MAX {
            return Pin::new(&mut self.0).poll_write_vectored(context, pieces);
        }
        let (mut joined, mut filled) = ([0; BYTES_MAX], 0);
        for piece in pieces {
            joined[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        Pin::new(&mut self.0).poll_write(context, &joined[..length])
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps the bytes of each call, and accepts only the first ones.
    #[derive(Default)]
    struct Calls {
        whole: Vec<Vec<u8>>,
        in_pieces: usize,
    }

    const TAKEN: usize = 3;

    impl AsyncWrite for Calls {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.whole.push(bytes.to_vec());
            Poll::Ready(Ok(TAKEN.min(bytes.len())))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.in_pieces += 1;
            Poll::Ready(Ok(pieces.iter().map(|piece| piece.len()).sum()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn small_pieces_leave_as_one_and_large_ones_as_they_are() {
        let mut stream = Joined(Calls::default());
        let mut write = |pieces: &[&[u8]]| {
            let pieces: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
            let mut context = Context::from_waker(std::task::Waker::noop());
            match Pin::new(&mut stream).poll_write_vectored(&mut context, &pieces) {
                Poll::Ready(Ok(length)) => length,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(write(&[b"head", b"", b"body"]), TAKEN, "what the stream took, not what it was given");
        assert_eq!(write(&[&[1; BYTES_MAX - 1], &[2]]), TAKEN);
        assert_eq!(write(&[&[1; BYTES_MAX], &[2]]), BYTES_MAX + 1);
        assert_eq!(write(&[&[1]]), 1);
        assert_eq!(stream.0.whole, [b"headbody".to_vec(), [vec![1; BYTES_MAX - 1], vec![2]].concat()]);
        assert_eq!(stream.0.in_pieces, 2);
    }
}
