(* Commutative rings, and finite sums in them.

   A ring's addition and multiplication are written ⊕ and ⊗; + and * are those of indices. *)

From Coq Require Export Arith Bool Lia Ring.

Record commutative_ring := Ring {
  carrier :> Type;
  zero : carrier;
  one : carrier;
  add : carrier -> carrier -> carrier;
  mul : carrier -> carrier -> carrier;
  minus : carrier -> carrier -> carrier;
  neg : carrier -> carrier;
  laws : ring_theory zero one add mul minus neg (@eq carrier);
}.

Arguments zero {_}.
Arguments one {_}.
Arguments add {_} _ _.
Arguments mul {_} _ _.
Arguments minus {_} _ _.
Arguments neg {_} _.

Infix "⊕" := add (at level 50, left associativity).
Infix "⊗" := mul (at level 40, left associativity).

Section Sums.
Context {K : commutative_ring}.
Add Ring ring_of_K : (laws K).

(* f 0 ⊕ f 1 ⊕ … ⊕ f (n - 1) *)
Fixpoint sum (n : nat) (f : nat -> K) : K :=
  match n with
  | 0 => zero
  | S n => sum n f ⊕ f n
  end.

Lemma sum_equal n f g : (forall i, i < n -> f i = g i) -> sum n f = sum n g.
Proof.
  induction n as [|n IH]; intros H; simpl; [reflexivity|].
  rewrite (H n) by lia. rewrite IH; [reflexivity|]. intros i Hi. apply H. lia.
Qed.

Lemma sum_zero n f : (forall i, i < n -> f i = zero) -> sum n f = zero.
Proof.
  intros H. rewrite (sum_equal n f (fun _ => zero) H). clear H.
  induction n as [|n IH]; simpl; [reflexivity|]. rewrite IH. ring.
Qed.

Lemma sum_add n f g : sum n (fun i => f i ⊕ g i) = sum n f ⊕ sum n g.
Proof. induction n as [|n IH]; simpl; [ring|]. rewrite IH. ring. Qed.

Lemma sum_scale n a f : sum n (fun i => a ⊗ f i) = a ⊗ sum n f.
Proof. induction n as [|n IH]; simpl; [ring|]. rewrite IH. ring. Qed.

Lemma sum_swap n m (f : nat -> nat -> K) :
  sum n (fun i => sum m (fun j => f i j)) = sum m (fun j => sum n (fun i => f i j)).
Proof.
  induction n as [|n IH]; simpl.
  - symmetry. apply sum_zero. reflexivity.
  - rewrite IH, <- sum_add. apply sum_equal. reflexivity.
Qed.

(* A sum in which only term k can differ from zero. *)
Lemma sum_one_term n k f : k < n -> (forall i, i < n -> i <> k -> f i = zero) -> sum n f = f k.
Proof.
  induction n as [|n IH]; intros Hk H; [lia|]. simpl.
  destruct (Nat.eq_dec k n) as [->|Hne].
  - rewrite (sum_zero n f); [ring|]. intros i Hi. apply H; lia.
  - rewrite IH by (try lia; intros i Hi Hik; apply H; lia). rewrite (H n) by lia. ring.
Qed.

Lemma sum_append n m f : sum (n + m) f = sum n f ⊕ sum m (fun j => f (n + j)).
Proof.
  induction m as [|m IH]; simpl.
  - rewrite Nat.add_0_r. ring.
  - rewrite Nat.add_succ_r. simpl. rewrite IH. ring.
Qed.

(* The sum over all C * d channels is the sum over paths of the sums over each path's d channels. *)
Lemma sum_by_paths C d f : sum (C * d) f = sum C (fun i => sum d (fun j => f (i * d + j))).
Proof.
  induction C as [|C IH]; simpl; [reflexivity|].
  rewrite Nat.add_comm, sum_append, IH. reflexivity.
Qed.

End Sums.

(* Channel j of path i is channel i * d + j of the joined map. *)
Lemma path_of_channel d i j : j < d -> (i * d + j) / d = i.
Proof. intros H. symmetry. apply (Nat.div_unique _ d i j); lia. Qed.

Lemma place_of_channel d i j : j < d -> (i * d + j) mod d = j.
Proof. intros H. symmetry. apply (Nat.mod_unique _ d i j); lia. Qed.

Lemma channel_is_some_path C d k : k < C * d -> exists i j, i < C /\ j < d /\ k = i * d + j.
Proof.
  intros H. assert (Hd : d <> 0) by (intros ->; lia).
  exists (k / d), (k mod d). repeat split.
  - apply Nat.div_lt_upper_bound; lia.
  - apply Nat.mod_upper_bound; exact Hd.
  - rewrite Nat.mul_comm. apply Nat.div_mod. exact Hd.
Qed.

Lemma channel_in_range C d i j : i < C -> j < d -> i * d + j < C * d.
Proof. intros Hi Hj. nia. Qed.
