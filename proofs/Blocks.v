(* Whole blocks, with the last batch norm, the shortcut and the last ReLU; whole networks; and batch norm
   itself. *)

From Coq Require Import List.
From ResNeXt Require Export Forms.

Section Blocks.
Context {K : commutative_ring}.

Definition same_map (X Y : map K) := forall c, same_plane (X c) (Y c).

(* F and G map equal maps to equal maps. same_layer F F says that F's result depends on its argument's numbers
   only. *)
Definition same_layer (F G : map K -> map K) := forall X Y, same_map X Y -> same_map (F X) (G Y).

(* y = last (f3 (transform x) + shortcut x). In ResNeXt, f3 is batch norm, last is ReLU, and the shortcut is x
   itself, x with zero channels added, or a convolution of x with batch norm. These three are the same in
   every form. *)
Definition block (f3 last : nat -> channel_function K) (shortcut transform : map K -> map K) :=
  fun X : map K => on_channels last (fun o b y x => f3 o (transform X o) b y x ⊕ shortcut X o b y x).

Lemma block_equal f3 last shortcut F G :
  (forall o, same_function (f3 o) (f3 o)) -> (forall o, same_function (last o) (last o)) ->
  same_layer shortcut shortcut -> same_layer F G ->
  same_layer (block f3 last shortcut F) (block f3 last shortcut G).
Proof.
  intros H3 Hlast Hs HF X Y HX o. apply Hlast. intros b y x.
  rewrite (H3 o _ _ (HF X Y HX o)), (Hs X Y HX o). reflexivity.
Qed.

(* Applies one layer after another. *)
Definition network (layers : list (map K -> map K)) (X : map K) : map K :=
  fold_left (fun X layer => layer X) layers X.

(* If each layer is replaced by an equal one, such as a block by the converted block, the network stays the
   same. *)
Theorem networks_are_equal Fs Gs : Forall2 same_layer Fs Gs -> same_layer (network Fs) (network Gs).
Proof.
  intros H. induction H as [|F G Fs Gs HF _ IH]; intros X Y HX; [exact HX|].
  apply (IH (F X) (G Y)). apply HF. exact HX.
Qed.

End Blocks.

Section AllForms.
Context {K : commutative_ring}.
Variables (C d n : nat) (first second third : geometry).
Variables f1 f2 : nat -> nat -> channel_function K.
Hypothesis f1_is_function : forall i j, i < C -> j < d -> same_function (f1 i j) (f1 i j).
Hypothesis f2_is_function : forall i j, i < C -> j < d -> same_function (f2 i j) (f2 i j).

Let form_a := form_a C d n first second third f1 f2.
Let form_b := form_b C d n first second third f1 f2.
Let form_c := form_c C d n first second third f1 f2.

Lemma same_layer_ab wa wb : same_weights_ab C d wa wb -> same_layer (form_a wa) (form_b wb).
Proof. intros H X Y HX o. apply a_is_b; try assumption. intros c _. apply HX. Qed.

Lemma same_layer_bc wb wc : same_weights_bc C d wb wc -> same_layer (form_b wb) (form_c wc).
Proof. intros H X Y HX o. apply b_is_c; try assumption. intros c _. apply HX. Qed.

Lemma same_layer_ac wa wb wc :
  same_weights_ab C d wa wb -> same_weights_bc C d wb wc -> same_layer (form_a wa) (form_c wc).
Proof.
  intros Hab Hbc X Y HX o. apply (a_is_c C d n) with (wb := wb); try assumption. intros c _. apply HX.
Qed.

Variables (f3 last : nat -> channel_function K) (shortcut : map K -> map K).
Hypothesis f3_is_function : forall o, same_function (f3 o) (f3 o).
Hypothesis last_is_function : forall o, same_function (last o) (last o).
Hypothesis shortcut_is_function : same_layer shortcut shortcut.

Definition block_a (w : weights_a K) := block f3 last shortcut (form_a w).
Definition block_b (w : weights_b K) := block f3 last shortcut (form_b w).
Definition block_c (w : weights_c K) := block f3 last shortcut (form_c w).

(* A block in form (a) equals those in forms (b) and (c) that have its weights, converted. *)
Theorem blocks_are_equal w :
  same_layer (block_a w) (block_b (a_to_b d w)) /\ same_layer (block_a w) (block_c (a_to_c d w)).
Proof.
  split; apply block_equal; try assumption.
  - apply same_layer_ab, a_to_b_same.
  - apply (same_layer_ac w (a_to_b d w)); [apply a_to_b_same | apply b_to_c_same].
Qed.

(* The same, starting from the weights of form (c). *)
Theorem blocks_are_equal_from_c w :
  same_layer (block_a (c_to_a d w)) (block_c w) /\ same_layer (block_a (c_to_a d w)) (block_b (c_to_b d w)).
Proof.
  split; apply block_equal; try assumption.
  - apply (same_layer_ac _ (c_to_b d w)); [apply b_to_a_same | apply c_to_b_same].
  - apply same_layer_ab, b_to_a_same.
Qed.

End AllForms.

(* --- ReLU and batch norm are channel functions -------------------------------------------------------- *)

Section Norms.
Context {K : commutative_ring}.

(* A function applied to each number, such as ReLU. *)
Definition pointwise (r : K -> K) : channel_function K := fun p b y x => r (p b y x).

Lemma pointwise_is_function r : same_function (pointwise r) (pointwise r).
Proof. intros p q H b y x. unfold pointwise. rewrite H. reflexivity. Qed.

(* Batch norm in training mode, over N images of H rows and W columns, computes scale · (x - mean) ·
   inverse_root (variance + epsilon) + bias. A ring need not have quotients or roots: average stands for 1 /
   (N · H · W), and inverse_root may be any function. *)
Section BatchNorm.
Variables (N H W : nat) (average scale bias epsilon : K) (inverse_root : K -> K).

Definition mean (p : plane K) : K := average ⊗ sum N (fun b => sum H (fun y => sum W (fun x => p b y x))).
Definition centred (p : plane K) : plane K := fun b y x => minus (p b y x) (mean p).
Definition variance (p : plane K) : K := mean (fun b y x => centred p b y x ⊗ centred p b y x).
Definition batch_norm : channel_function K := fun p b y x =>
  scale ⊗ centred p b y x ⊗ inverse_root (variance p ⊕ epsilon) ⊕ bias.

Lemma mean_equal p q : same_plane p q -> mean p = mean q.
Proof.
  intros E. unfold mean. f_equal.
  apply sum_equal; intros b _. apply sum_equal; intros y _. apply sum_equal; intros x _. apply E.
Qed.

Lemma centred_equal p q : same_plane p q -> same_plane (centred p) (centred q).
Proof. intros E b y x. unfold centred. rewrite (E b y x), (mean_equal p q E). reflexivity. Qed.

Lemma variance_equal p q : same_plane p q -> variance p = variance q.
Proof. intros E. apply mean_equal. intros b y x. rewrite (centred_equal p q E b y x). reflexivity. Qed.

Theorem batch_norm_is_function : same_function batch_norm batch_norm.
Proof.
  intros p q E b y x. unfold batch_norm.
  rewrite (centred_equal p q E b y x), (variance_equal p q E). reflexivity.
Qed.

End BatchNorm.

(* Two channel functions, one after the other, are a channel function. *)
Lemma composed_is_function (f g : channel_function K) :
  same_function f f -> same_function g g -> same_function (fun p => g (f p)) (fun p => g (f p)).
Proof. intros Hf Hg p q E. apply Hg, Hf, E. Qed.

End Norms.
