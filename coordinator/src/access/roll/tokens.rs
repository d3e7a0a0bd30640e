//! Tokens are made and revoked.

use super::{ADMIN_TOKEN, Change, Principal, PrincipalKind, Refused, Role, Roll, Token};
use crate::{access::secret::Digest, store::Millis};

/// How many tokens one owner may have.
const TOKENS_MAX: usize = 100;

/// A token to make.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its identity.
    pub id: String,
    /// What is known of its secret.
    pub digest: Digest,
    /// What it is for.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it ends.
    pub expires_at: Option<Millis>,
}

impl Roll {
    /// Makes a token, which is its maker's.
    ///
    /// # Errors
    /// When its maker has one of that name or too many, or may not do so much.
    pub fn make_token(&self, maker: &Principal, new: NewToken, now: Millis) -> Result<Token, Refused> {
        if maker.kind == PrincipalKind::Token && maker.role < Role::Admin {
            return Err(Refused::TokenByToken);
        }
        if new.role > maker.role {
            return Err(Refused::RoleTooHigh { wanted: new.role, own: maker.role });
        }
        let theirs: Vec<&Token> = self.tokens.values().filter(|token| token.owner == maker.person).collect();
        if theirs.iter().any(|token| token.name == new.name) {
            return Err(Refused::NameTaken { what: "token", name: new.name });
        }
        if theirs.len() >= TOKENS_MAX {
            return Err(Refused::TooMany { what: "tokens of yours", limit: TOKENS_MAX });
        }
        let NewToken { id, digest, name, role, expires_at } = new;
        let owner = maker.person.clone();
        Ok(Token { id, digest, name, role, owner, created_at: now, expires_at, used_at: None })
    }

    /// The tokens that somebody may see: their own, and an admin all.
    pub fn tokens_for<'a>(&'a self, viewer: &'a Principal) -> impl Iterator<Item = &'a Token> {
        self.tokens.values().filter(move |token| may_see(viewer, token))
    }

    /// Revokes a token.
    ///
    /// # Errors
    /// When there is no such token that this caller may see, or it is the one in the data folder.
    pub fn revoke_token(&self, caller: &Principal, id: &str) -> Result<(Token, Vec<Change>), Refused> {
        let token = self.token_of_id(id).filter(|token| may_see(caller, token));
        let token = token.ok_or_else(|| Refused::Missing { what: "token", name: id.to_owned() })?;
        if token.id == ADMIN_TOKEN {
            return Err(Refused::InFile(ADMIN_TOKEN));
        }
        Ok((token.clone(), vec![Change::TokenRemoved(token.digest)]))
    }
}

/// A token sees, of its owner's, those that may do no more than itself.
fn may_see(viewer: &Principal, token: &Token) -> bool {
    viewer.role == Role::Admin
        || (viewer.person.is_some() && token.owner == viewer.person && token.role <= viewer.role)
}
